// A gateway of a test's own: starts the program on a free port, waits until it listens, ends it by its pid.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const BINARY = process.env.STOMPGATE_BIN ?? fileURLToPath(new URL('../../target/release/stompgate', import.meta.url));
const START_LIMIT = 30_000;

/** What every gateway here is started with: heart-beats small enough to be watched, and no port that two would want. */
const SETTINGS = { STOMPGATE_SESSION__HEARTBEAT_MIN: '100ms', STOMPGATE_ADMIN__ENABLED: 'false' };

const running = new Set();
process.on('exit', () => running.forEach(child => child.kill('SIGKILL')));
// A test file that is told to end, by its time limit or by Ctrl-C, takes its gateways with it.
['SIGINT', 'SIGTERM', 'SIGHUP'].forEach(signal => process.once(signal, () => process.exit(1)));

export class Gateway {
  url = undefined;
  #child = undefined;
  #settings;
  #log = '';

  /** A gateway that listens. `settings` are environment variables, as `STOMPGATE_SECTION__KEY`. */
  static async start(settings = {}) {
    const gateway = new Gateway(settings);
    await gateway.start();
    return gateway;
  }

  constructor(settings) {
    this.#settings = settings;
  }

  get port() {
    return this.url ? Number(new URL(this.url).port) : 0;
  }

  /** Starts it; again, after `kill` or `stop`, on the port that it had. */
  async start() {
    if (!existsSync(BINARY)) {
      throw new Error(`There is no gateway at ${BINARY}: run "cargo build --release", or set STOMPGATE_BIN.`);
    }
    const env = { ...ownEnvironment(), ...SETTINGS, STOMPGATE_SERVER__LISTEN: `127.0.0.1:${this.port}`, ...this.#settings };
    const child = spawn(BINARY, [], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    running.add(child);
    child.once('exit', () => running.delete(child));
    child.stderr.on('data', data => (this.#log += data));
    this.url = await this.#announcement(child);
  }

  #announcement(child) {
    return new Promise((resolve, reject) => {
      const fail = why => {
        child.kill('SIGKILL');
        reject(new Error(`The gateway ${why}.\n${this.#log}`));
      };
      const limit = setTimeout(() => fail(`did not say that it listens within ${START_LIMIT} ms`), START_LIMIT);
      child.once('error', error => fail(`cannot be run: ${error.message}`));
      child.once('exit', (code, signal) => fail(`ended before it listened (${code ?? signal})`));
      createInterface({ input: child.stdout }).on('line', line => {
        this.#log += `${line}\n`;
        const [, url] = /listening on (ws:\/\/\S+)/.exec(line) ?? [];
        if (!url) return;
        clearTimeout(limit);
        child.removeAllListeners('exit').once('exit', () => running.delete(child));
        resolve(url);
      });
    });
  }

  /** Takes it away without a word, as a crash would. */
  async kill() {
    await this.#end('SIGKILL');
  }

  /** Asks it to stop, and holds it to a clean end. */
  async stop() {
    const code = await this.#end('SIGTERM');
    if (code !== 0) throw new Error(`The gateway ended with ${code} instead of 0.\n${this.#log}`);
  }

  /** Stops its world, as a host that swaps or hangs would. */
  freeze() {
    this.#child.kill('SIGSTOP');
  }

  thaw() {
    this.#child.kill('SIGCONT');
  }

  async #end(signal) {
    const child = this.#child;
    if (child.exitCode === null && child.signalCode === null) {
      const ended = once(child, 'exit');
      child.kill(signal);
      await ended;
    }
    return child.exitCode ?? child.signalCode;
  }
}

/** Our environment without settings of a gateway, so that a developer's own do not reach the tests. */
function ownEnvironment() {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^STOMPGATE_.*__/.test(name)));
}
