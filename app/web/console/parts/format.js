/** Numbers, times and sizes as a person reads them. */

const UNITS = [[1e9, "G"], [1e6, "M"], [1e3, "k"]];
const DURATIONS = [[86_400, "d", 172_800], [3600, "h", 3600], [60, "m", 60], [1, "s", 1]]; // unit, name, used from

const trimmed = (number, digits) => String(Number(number.toFixed(digits)));

/** 0, 0.4, 12, 1.2k, 3.4M */
export function number(value) {
  const [unit, name] = UNITS.find(([unit]) => value >= unit * 0.9995) ?? [1, ""];
  const scaled = value / unit;
  return trimmed(scaled, scaled < 9.95 ? 1 : 0) + name;
}

/** 1,000 */
export const count = (value) => value.toLocaleString("en");

/** Seconds as `<1 ms`, `3.2 ms` or `1.2 s`, and null as a dash; the times of messages are whole milliseconds. */
export const latency = (seconds) => (seconds === null ? "–" : seconds <= 0.001 ? "<1 ms" : time(seconds));

/** Seconds as `0`, `0.5 ms`, `120 ms` or `1.2 s`. */
export function time(seconds) {
  if (seconds === 0) return "0";
  return seconds < 1 ? `${trimmed(seconds * 1000, seconds < 0.01 ? 1 : 0)} ms` : `${trimmed(seconds, 1)} s`;
}

/** Seconds as channels.yaml writes them: `30s`, `15m`, `24h`, `7d`. */
export function duration(seconds) {
  const [unit, name] = DURATIONS.find(([unit, , from]) => seconds >= from && seconds % unit === 0) ?? [1, "s"];
  return `${count(seconds / unit)}${name}`;
}

/** Bytes as `20 B`, `64 KiB` or `1 MiB`. */
export function bytes(value) {
  const power = value < 1024 ? 0 : value < 1024 ** 2 ? 1 : 2;
  return `${trimmed(value / 1024 ** power, 1)} ${["B", "KiB", "MiB"][power]}`;
}

const two = (value) => String(value).padStart(2, "0");

/** A Date as `14:03:07`. */
export const clock = (at) => [at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(":");

/** A Date as `.042`. */
export const millis = (at) => `.${String(at.getMilliseconds()).padStart(3, "0")}`;
