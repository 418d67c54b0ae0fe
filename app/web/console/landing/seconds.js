/** What happened in each of the last seconds, put together to the points of a chart. */

const POINTS = 60; // of a chart

/** The quantile of deliveries counted by age, in seconds; null if there were none. Within a bucket it is interpolated. */
export function quantile(share, ages, bounds) {
  const rank = share * ages.reduce((sum, count) => sum + count, 0);
  if (rank === 0) return null;
  let sum = 0;
  const index = ages.findIndex((count) => (sum += count) >= rank);
  if (index >= bounds.length) return bounds.at(-1);
  const from = index ? bounds[index - 1] : 0;
  return from + ((bounds[index] - from) * (rank - sum + ages[index])) / ages[index];
}

const EMPTY = { published: 0, delivered: 0, gaps: 0, refused: 0, ages: [] };

/** Add up seconds. */
export function together(seconds) {
  const total = { ...EMPTY, ages: [] };
  for (const { published, delivered, gaps, refused, ages } of seconds) {
    total.published += published;
    total.delivered += delivered;
    total.gaps += gaps;
    total.refused += refused;
    ages.forEach((count, index) => (total.ages[index] = (total.ages[index] ?? 0) + count));
  }
  return total;
}

/** The last seconds of the server, by the second of its clock. */
export class Seconds {
  #seconds = new Map();
  until = 0;
  bounds = [];

  /** Take what an answer to `GET /console/overview` has. */
  take({ seconds, until, bounds }, kept) {
    for (const [time, published, delivered, gaps, refused, ages] of seconds) {
      this.#seconds.set(time, { published, delivered, gaps, refused, ages });
    }
    for (const time of this.#seconds.keys()) if (time <= until - kept) this.#seconds.delete(time);
    Object.assign(this, { until, bounds });
  }

  /** Return the sum of so many seconds, up to `until`. */
  sum(count, until = this.until) {
    const times = Array.from({ length: count }, (_, index) => until - index);
    return together(times.map((time) => this.#seconds.get(time) ?? EMPTY));
  }

  /** Return the points of a chart over a range of seconds: their times, and the sum of each with its `length`. */
  points(range) {
    const length = range / POINTS;
    const last = this.until - (this.until % length); // so that a point does not change once it is drawn
    const times = Array.from({ length: POINTS }, (_, index) => last - (POINTS - 1 - index) * length);
    return { times, length, sums: times.map((time) => this.sum(length, time)) };
  }
}
