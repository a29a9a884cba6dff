// What arrives, in order, for whoever waits for it.

/** Long after anything that works; a wait that reaches it is a failure with a name rather than a test that hangs. */
const PATIENCE = 20_000;

export class Inbox {
  #what;
  #arrived = [];
  #waiting = [];

  /** `what` completes the sentence "waited for …". */
  constructor(what) {
    this.#what = what;
  }

  /** How many arrived that nobody took. */
  get size() {
    return this.#arrived.length;
  }

  put(item) {
    const waiting = this.#waiting.shift();
    if (waiting) waiting.resolve(item);
    else this.#arrived.push(item);
  }

  /** The next that arrives, or has arrived and was not taken. */
  next() {
    if (this.#arrived.length > 0) return Promise.resolve(this.#arrived.shift());
    return new Promise((resolve, reject) => {
      const waiting = {};
      const limit = setTimeout(() => waiting.reject(new Error(`waited ${PATIENCE} ms for ${this.#what}`)), PATIENCE);
      const settle = done => outcome => {
        clearTimeout(limit);
        this.#waiting = this.#waiting.filter(other => other !== waiting);
        done(outcome);
      };
      waiting.resolve = settle(resolve);
      waiting.reject = settle(reject);
      this.#waiting.push(waiting);
    });
  }

  async take(count) {
    const items = [];
    while (items.length < count) items.push(await this.next());
    return items;
  }

  /** Ends every wait that is going on. */
  fail(error) {
    [...this.#waiting].forEach(waiting => waiting.reject(error));
  }
}
