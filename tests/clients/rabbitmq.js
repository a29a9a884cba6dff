// A RabbitMQ of a test's own, from Debian's package.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { createServer, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const SCRIPT = fileURLToPath(new URL('../support/rabbitmq.sh', import.meta.url));
const START_LIMIT = 180_000; // Erlang is slow to start, and more so on a busy machine

export class RabbitMq {
  /** Starts one; it ends with `stop`, and with this process. */
  static async start() {
    const [port, distribution, epmd] = await freePorts(3);
    const folder = await mkdtemp(`${tmpdir()}/stompgate-clients-`);
    await writeFile(`${folder}/rabbitmq.conf`, `listeners.tcp.1 = 127.0.0.1:${port}\nlog.file.level = warning\n`);
    await writeFile(`${folder}/enabled_plugins`, '[].\n');
    const name = `stompgate-clients-${process.pid}-${port}`;
    const child = spawn('sh', [SCRIPT, folder, name, `${distribution}`, `${epmd}`], { stdio: ['pipe', 'ignore', 'ignore'] });
    const broker = new RabbitMq(child, port);
    await broker.#listens();
    return broker;
  }

  constructor(child, port) {
    this.child = child;
    this.port = port;
  }

  get uri() {
    return `amqp://guest:guest@127.0.0.1:${this.port}/%2f`;
  }

  async stop() {
    const ended = once(this.child, 'exit');
    this.child.stdin.end();
    await ended;
  }

  async #listens() {
    const limit = Date.now() + START_LIMIT;
    while (!(await listens(this.port))) {
      if (this.child.exitCode !== null || Date.now() > limit) throw new Error('RabbitMQ does not start');
      await setTimeout(100);
    }
  }
}

/** Whether somebody listens on this port of loopback. */
export function listens(port) {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1');
    const done = answer => {
      socket.destroy();
      resolve(answer);
    };
    socket.once('connect', () => done(true)).once('error', () => done(false));
  });
}

/** Ports that nobody has. */
export async function freePorts(count) {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map(server => once(server, 'listening')));
  const ports = servers.map(server => server.address().port);
  await Promise.all(servers.map(server => once(server.close(), 'close')));
  return ports;
}
