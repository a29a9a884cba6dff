// The chat of examples/chat, as its one command starts it: page, back end and gateway, clicked through in Chromium.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { after, before, describe, test } from 'node:test';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { inChromium } from './browser/chromium.js';
import { equal, ok } from './conversation/expect.js';
import { BINARY } from './gateway.js';
import { freePorts, listens, RabbitMq } from './rabbitmq.js';
import { LIMIT } from './suite.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const STOMPJS = 'tests/clients/node_modules/@stomp/stompjs/bundles/stomp.umd.min.js';
const chromium = inChromium();

/** The whole application on free ports. */
class Application {
  static async start(settings) {
    const [page, admin] = await freePorts(2);
    const given = ['server.listen=127.0.0.1:0', `admin.listen=127.0.0.1:${admin}`, ...settings];
    const child = spawn('examples/chat/run', given.flatMap(setting => ['--set', setting]), {
      cwd: ROOT,
      env: {
        ...process.env,
        STOMPGATE_BIN: BINARY,
        CHAT_STOMPJS: STOMPJS,
        CHAT_PORT: page,
        CHAT_API: `http://127.0.0.1:${admin}`,
      },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const application = new Application(child);
    for await (const line of createInterface({ input: child.stdout })) {
      const [, url] = /listening on (ws:\/\/\S+)/.exec(line) ?? [];
      if (url) {
        application.page = `http://localhost:${page}/?gateway=${url}`;
        break;
      }
    }
    child.stdout.resume();
    while (!(await listens(page))) ok(child.exitCode === null, 'the back end ended');
    return application;
  }

  constructor(child) {
    this.child = child;
  }

  async stop() {
    if (this.child.exitCode !== null) return;
    const ended = once(this.child, 'exit');
    this.child.kill('SIGTERM');
    await ended;
  }
}

/** Someone with the page before them. */
class Person {
  constructor(page) {
    this.page = page;
  }

  async enters({ page }, name) {
    await this.page.goto(page);
    await this.knocks(name);
    await this.sees(`inside as ${name}`);
  }

  async knocks(name) {
    await this.page.getByLabel('Your name').fill(name);
    await this.page.getByRole('button', { name: 'Enter' }).click();
  }

  async says(text, to = '') {
    await this.page.getByLabel('To').fill(to);
    await this.page.getByLabel('Message', { exact: true }).fill(text);
    await this.page.getByRole('button', { name: 'Send' }).click();
  }

  /** Waits until `text` stands somewhere on the page. */
  sees(text) {
    return this.page.getByText(text).first().waitFor();
  }

  /** Waits until just these are there. */
  meets(...names) {
    const isThere = names => {
      const shown = [...document.querySelectorAll('#people li')].map(line => line.textContent);
      return JSON.stringify(shown) === JSON.stringify(names);
    };
    return this.page.waitForFunction(isThere, names);
  }

  read() {
    return this.page.getByRole('list', { name: 'Messages' }).getByRole('listitem').allTextContents();
  }
}

function clickedThrough(title, start) {
  describe(`the chat application ${title}`, () => {
    let application, broker;
    before(async () => ([application, broker] = await start()));
    after(async () => {
      await application?.stop();
      await broker?.stop();
    });

    test('people talk, whisper, are seen to come and go, and come in later', { timeout: LIMIT }, () =>
      chromium.atWindows(['Alice', 'Bob', 'Carol'], async pages => {
        const [alice, bob, carol] = pages.map(page => new Person(page));
        await alice.enters(application, 'Alice');
        await bob.enters(application, 'Bob');
        await alice.meets('Alice', 'Bob');
        await alice.says('Good morning');
        await bob.sees('Alice: Good morning');
        await bob.says('psst', 'Alice');
        await alice.sees('Bob to Alice: psst');

        await carol.enters(application, 'Carol');
        await bob.meets('Alice', 'Bob', 'Carol');
        await carol.sees('Alice: Good morning');
        await carol.says('Hello');
        await bob.sees('Carol: Hello');
        await carol.sees('Carol: Hello');
        equal(await carol.read(), ['Alice: Good morning', 'Carol: Hello'], 'what Carol reads');
        equal(await bob.read(), ['Alice: Good morning', 'Bob to Alice: psst', 'Carol: Hello'], 'what Bob reads');

        await carol.says('are you there?', 'Nobody');
        await carol.sees('Nobody is not here');
        await carol.says('   ');
        await carol.sees('there is nothing in it');

        await bob.page.close();
        await alice.meets('Alice', 'Carol');
      }),
    );

    test('a name that the back end refuses does not come in', { timeout: LIMIT }, () =>
      chromium.atWindows(['Eve'], async ([page]) => {
        const eve = new Person(page);
        await page.goto(application.page);
        await eve.knocks('not a name');
        await eve.sees("Access refused for user 'not a name'");
        await eve.sees('outside');
      }),
    );

    test('a page cannot speak for the back end', { timeout: LIMIT }, () =>
      chromium.atWindows(['Mallory'], async ([page]) => {
        const mallory = new Person(page);
        await mallory.enters(application, 'Mallory');
        await page.evaluate(() => client.publish({ destination: '/topic/people', body: '[]' }));
        await mallory.sees('no access.rule allows all of it');
      }),
    );
  });
}

clickedThrough('on the embedded broker', async () => [await Application.start([])]);
clickedThrough('in front of RabbitMQ', async () => {
  const broker = await RabbitMq.start();
  const settings = ['broker.kind="amqp"', `broker.amqp.uri="${broker.uri}"`];
  return [await Application.start(settings).catch(error => broker.stop().then(() => Promise.reject(error))), broker];
});
