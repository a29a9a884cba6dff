// People in a chat: real windows, clicks and keys, on the UMD bundle of @stomp/stompjs.

import { mkdir } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { setInterval } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import WebSocket from 'ws';
import { stompjs } from './adapters/stompjs.js';
import { inChromium } from './browser/chromium.js';
import { equal, ok } from './conversation/expect.js';
import { talk } from './conversation/talk.js';
import { LIMIT, onOwnGateway, sharedGateway } from './suite.js';

const ARTIFACTS = fileURLToPath(new URL('../../target/artifacts/', import.meta.url));
const chromium = inChromium();

/** Someone with the chat before them. */
class Person {
  constructor(page) {
    this.page = page;
  }

  comesTo({ url }) {
    return this.page.goto(`${chromium.origin()}/browser/chat.html?gateway=${url}`);
  }

  async enters(name) {
    await this.page.getByLabel('Your name').pressSequentially(name);
    await this.page.getByRole('button', { name: 'Enter' }).click();
    await this.sees(`inside as ${name}`);
  }

  async says(text) {
    await this.page.getByLabel('Message', { exact: true }).pressSequentially(text);
    await this.page.getByRole('button', { name: 'Send' }).click();
  }

  leaves() {
    return this.page.getByRole('button', { name: 'Leave' }).click();
  }

  comesBack() {
    return this.page.getByRole('button', { name: 'Enter' }).click();
  }

  /** Waits until `text` stands somewhere on the page. */
  sees(text) {
    return this.page.getByText(text).first().waitFor();
  }

  /** All lines of the chat. */
  read() {
    return this.page.getByRole('listitem').allTextContents();
  }
}

/** A test among `names`, each with a window that shares nothing with the others'. */
function among(names, title, play) {
  test(title, { timeout: LIMIT }, () =>
    chromium.atWindows(names, pages => play(...pages.map(page => new Person(page)))),
  );
}

describe('a chat in Chromium', () => {
  const gateway = sharedGateway();

  among(['Alice', 'Bob'], 'one types, the other sees it, and answers', async (alice, bob) => {
    for (const person of [alice, bob]) await person.comesTo(gateway());
    await alice.enters('Alice');
    await bob.enters('Bob');
    await alice.says('Good morning: is anyone there?');
    await bob.sees('Good morning: is anyone there?');
    await bob.says('Grüße, Alice!');
    await alice.sees('Grüße, Alice!');
    const lines = ['Alice: Good morning: is anyone there?', 'Bob: Grüße, Alice!'];
    equal([await alice.read(), await bob.read()], [lines, lines], 'lines');
    await mkdir(ARTIFACTS, { recursive: true });
    await alice.page.screenshot({ path: `${ARTIFACTS}chat.png` });
  });

  among(['Alice', 'Bob'], 'who leaves is closed with 1000, hears no more, and may come back', async (alice, bob) => {
    for (const person of [alice, bob]) await person.comesTo(gateway());
    await alice.enters('Alice');
    await bob.enters('Bob');
    await bob.leaves();
    await bob.sees('outside (1000)');
    await alice.says('Bob is gone');
    await alice.sees('Bob is gone');
    await bob.comesBack();
    await bob.sees('inside as Bob');
    await alice.says('Bob is back');
    await bob.sees('Bob is back');
    equal(await bob.read(), ['Alice: Bob is back'], 'lines');
  });

  among(['Bob'], 'a page that is reloaded mid-stream is back in the stream, once and without a gap', bob =>
    talk(stompjs(WebSocket), gateway(), async connect => {
      await bob.comesTo(gateway());
      await bob.enters('Bob');
      const stop = stream(await connect(), '/topic/chat.lobby');
      await bob.sees('tick 5');
      await bob.page.reload();
      await bob.page.getByText(/^ticker: tick/).nth(20).waitFor();
      await stop();
      const lines = await bob.read();
      const first = Number(lines[0].replace('ticker: tick ', ''));
      ok(first > 5, `the first tick after the reload is ${first}`);
      equal(lines, lines.map((_, index) => `ticker: tick ${first + index}`), 'lines');
    }),
  );

  among(['Alice', 'Bob'], 'both are back by themselves after the gateway was killed', (alice, bob) =>
    onOwnGateway({}, async gateway => {
      for (const person of [alice, bob]) await person.comesTo(gateway);
      await alice.enters('Alice');
      await bob.enters('Bob');
      await gateway.kill();
      for (const person of [alice, bob]) await person.sees('outside (1006)');
      await gateway.start();
      await alice.sees('inside as Alice');
      await bob.sees('inside as Bob');
      await alice.says('Here again');
      await bob.sees('Alice: Here again');
    }),
  );
});

/** Lets `ticker` say numbers, a hundred a second, until the returned function is called. */
function stream(ticker, destination) {
  const ticking = new AbortController();
  const tick = async () => {
    let count = 0;
    for await (const _ of setInterval(10, undefined, { signal: ticking.signal })) {
      const body = JSON.stringify({ name: 'ticker', text: `tick ${count++}` });
      await ticker.send(destination, body, { 'content-type': 'application/json' });
    }
  };
  const ticked = tick().catch(error => ok(error.name === 'AbortError', error));
  return () => {
    ticking.abort();
    return ticked;
  };
}
