/** Runs of a language model over Abide, for the AI SDK: each run is a channel of chunks (`UIMessageChunk`). */

const ENDS = ["finish", "abort", "error"]; // the types of a run's last chunk
const JOINED = 40; // milliseconds

/** A transport for `useChat`: the application starts a run, and the run's channel holds what the model writes. */
export class AbideChatTransport {
  #options;

  constructor({ client, start, resume = () => null, channel = (run) => `run.${run}` }) {
    this.#options = { client, start, resume, channel };
  }

  async sendMessages({ abortSignal, ...request }) {
    return this.#read(await this.#options.start({ abortSignal, ...request }), abortSignal);
  }

  async reconnectToStream({ abortSignal, ...request }) {
    const run = await this.#options.resume({ abortSignal, ...request });
    return run == null ? null : this.#read(run, abortSignal);
  }

  /** Return a run's chunks from its first to its last, those to come included. */
  #read(run, abortSignal) {
    abortSignal?.throwIfAborted();
    const { client, channel } = this.#options;
    let stop;
    const start = (controller) => {
      const fail = (error) => { stop(); controller.error(error); };
      const abort = () => fail(abortSignal.reason);
      const unsubscribe = client.subscribe(channel(run), {
        since: "earliest",
        onMessage: ({ data }) => {
          for (const chunk of [data].flat()) {
            if (typeof chunk?.type !== "string") return fail(new Error(`run ${run} has a message that is no chunk`));
            controller.enqueue(chunk);
            if (!ENDS.includes(chunk.type)) continue;
            stop();
            return controller.close();
          }
        },
        onGap: ({ reason }) => fail(new Error(`a part of run ${run} is missing: ${reason}`)),
        onError: fail,
      });
      stop = () => { unsubscribe(); abortSignal?.removeEventListener("abort", abort); };
      abortSignal?.addEventListener("abort", abort);
    };
    return new ReadableStream({ start, cancel: () => stop() });
  }
}

/** Publish a run's chunks as they are written: those of 40 ms are one message, which is an array. */
export async function publishRun(client, channel, chunks, { key = crypto.randomUUID() } = {}) {
  let [waiting, number, last, over, stopped] = [[], 0];
  const write = (chunk) => { waiting.push(chunk); last = chunk.type; };
  const read = async () => {
    try {
      for await (const chunk of chunks) {
        if (stopped) return;
        write(chunk);
      }
      if (!ENDS.includes(last)) write({ type: "finish" });
    } catch (error) {
      write({ type: "error", errorText: String(error?.message ?? error) });
    } finally {
      over = true;
    }
  };
  const reading = read();
  try {
    while (!over || waiting.length) {
      await Promise.race([reading, pause(JOINED)]);
      if (!waiting.length) continue;
      const joined = waiting;
      waiting = [];
      await client.publish(channel, joined, { key: `${key}-${number++}` });
    }
  } finally {
    stopped = true;
  }
}

const pause = (wait) => new Promise((resolve) => setTimeout(resolve, wait));
