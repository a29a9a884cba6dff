// Compressed messages (permessage-deflate): every scenario again, with `ws` and with the browser's own WebSocket. Both offer
// it unasked, and compress what they send once it is agreed on: Chromium all of it, `ws` what has a kilobyte.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import WebSocket from 'ws';
import { stompjs } from './adapters/stompjs.js';
import { inChromium } from './browser/chromium.js';
import { have } from './conversation/talk.js';
import { eachScenario, sharedGateway } from './suite.js';

/** Compresses whatever gets shorter. */
const COMPRESSING = { STOMPGATE_SERVER__DEFLATE__ENABLED: 'true', STOMPGATE_SERVER__DEFLATE__MIN_SIZE: '0' };
const AGREED = 'permessage-deflate; server_no_context_takeover; client_no_context_takeover';

const client = stompjs(WebSocket);
const chromium = inChromium();

describe('@stomp/stompjs 7 in Node, compressed', () => {
  eachScenario(client, (scenario, gateway) => have(scenario, client, gateway), COMPRESSING);
});

describe('@stomp/stompjs 7 in Chromium, compressed', () => {
  let page, gateway;

  before(async () => {
    page = await chromium.newPage();
    await page.exposeFunction('onGateway', act => gateway[act]());
    await page.goto(`${chromium.origin()}/browser/scenarios.html`);
  });

  const play = (scenario, its) => {
    gateway = its;
    return page.evaluate(([title, url]) => window.play(title, url), [scenario.title, gateway.url]);
  };
  eachScenario(client, play, COMPRESSING);

  after(() => page?.close());
});

describe('what is agreed on', () => {
  const [compressing, plain] = [sharedGateway(COMPRESSING), sharedGateway()];
  let page;
  before(async () => (page = await chromium.newPage()));
  after(() => page?.close());

  /** The extensions of a WebSocket that opens, as its client sees them. */
  const inPage = url =>
    page.evaluate(async url => {
      const socket = new WebSocket(url);
      await new Promise((resolve, reject) => Object.assign(socket, { onopen: resolve, onerror: reject }));
      socket.close();
      return socket.extensions;
    }, url);
  const inNode = async (url, perMessageDeflate) => {
    const socket = new WebSocket(url, { perMessageDeflate });
    const answer = new Promise(resolve => socket.once('upgrade', resolve));
    await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
    socket.close();
    return (await answer).headers['sec-websocket-extensions'] ?? '';
  };

  test('Chromium sees what it may expect', async () => {
    await page.goto(`${chromium.origin()}/browser/scenarios.html`);
    assert.equal(await inPage(compressing().url), AGREED);
    assert.equal(await inPage(plain().url), '');
  });

  test('ws sees what it may expect', async () => {
    assert.equal(await inNode(compressing().url, true), AGREED);
    assert.equal(await inNode(compressing().url, { serverMaxWindowBits: 9 }), `${AGREED}; server_max_window_bits=9`);
    assert.equal(await inNode(compressing().url, { clientMaxWindowBits: 9 }), AGREED);
    assert.equal(await inNode(plain().url, true), '');
  });
});
