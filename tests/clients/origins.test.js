// Which pages a browser may connect from: those of this machine, those that are listed, and no other.

import { describe, test } from 'node:test';
import { inChromium } from './browser/chromium.js';
import { equal } from './conversation/expect.js';
import { LIMIT, onOwnGateway, sharedGateway } from './suite.js';

const chromium = inChromium();
const REFUSED = 'Error during WebSocket handshake: Unexpected response code: 403';

/** What a page at `host` gets when it opens a WebSocket to `url`: its sub-protocol, or what the browser says against it. */
async function handshake(host, url, inFrame = frames => frames.main) {
  let outcome;
  await chromium.atWindows([host], async ([page]) => {
    await page.goto(`${chromium.origin(host)}/browser/origins.html`);
    const complaint = page.waitForEvent('console', message => message.text().startsWith('WebSocket connection to'));
    const [main, sandboxed] = page.frames();
    const opened = inFrame({ main, sandboxed }).evaluate(
      url =>
        new Promise(resolve => {
          const socket = new WebSocket(url, ['v12.stomp']);
          socket.onopen = () => resolve(socket.protocol);
        }),
      url,
    );
    const refused = complaint.then(message => message.text().replace(/.* failed: /, ''));
    [opened, refused].forEach(other => other.catch(() => {})); // the one that loses ends with its page
    outcome = await Promise.race([opened, refused]);
  });
  return outcome;
}

describe('Origin and Host, as Chromium sends them', () => {
  const gateway = sharedGateway();
  const named = host => gateway().url.replace('127.0.0.1', host);

  for (const page of ['localhost', '127.0.0.1']) {
    for (const host of ['localhost', '127.0.0.1']) {
      test(`a page on another port of ${page} may connect to ${host}`, { timeout: LIMIT }, async () =>
        equal(await handshake(page, named(host)), 'v12.stomp'));
    }
  }

  test('a page from elsewhere may not', { timeout: LIMIT }, async () =>
    equal(await handshake('chat.example', gateway().url), REFUSED));

  test('a page from elsewhere may when its origin is listed', { timeout: LIMIT }, () =>
    onOwnGateway({ STOMPGATE_SERVER__ALLOWED_ORIGINS: `["${chromium.origin('chat.example')}"]` }, async listed =>
      equal(await handshake('chat.example', listed.url), 'v12.stomp'),
    ));

  test('a name that resolves to loopback is not taken for this machine', { timeout: LIMIT }, async () =>
    equal(await handshake('localhost', named('chat.example')), REFUSED));

  test('a sandboxed frame, whose origin is null, may not', { timeout: LIMIT }, async () =>
    equal(await handshake('localhost', gateway().url, frames => frames.sandboxed), REFUSED));
});
