// @stomp/stompjs on the browser's own WebSocket: every scenario, inside a page.

import { after, before, describe } from 'node:test';
import WebSocket from 'ws';
import { stompjs } from './adapters/stompjs.js';
import { inChromium } from './browser/chromium.js';
import { eachScenario } from './suite.js';

const chromium = inChromium();

describe('@stomp/stompjs 7 in Chromium', () => {
  let page, gateway;

  before(async () => {
    page = await chromium.newPage();
    await page.exposeFunction('onGateway', act => gateway[act]());
    await page.goto(`${chromium.origin()}/browser/scenarios.html`);
  });

  eachScenario(stompjs(WebSocket), (scenario, its) => {
    gateway = its;
    return page.evaluate(([title, url]) => play(title, url), [scenario.title, gateway.url]);
  });

  after(() => page?.close());
});
