// @stomp/stompjs in Chromium: every scenario on the browser's own WebSocket, then people in a chat.

import { mkdir } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { setInterval } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import WebSocket from 'ws';
import { stompjs } from './adapters/stompjs.js';
import { serve } from './browser/server.js';
import { equal, ok } from './conversation/expect.js';
import { Gateway } from './gateway.js';
import { eachScenario } from './suite.js';

const ARTIFACTS = fileURLToPath(new URL('../../target/artifacts/', import.meta.url));
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  // A host name that is not loopback, for pages that come from elsewhere.
  '--host-resolver-rules=MAP chat.example 127.0.0.1',
];

let browser, files;

before(async () => {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  [browser, files] = await Promise.all([chromium.launch({ executablePath, args: FLAGS }), serve()]);
  await mkdir(ARTIFACTS, { recursive: true });
});

after(async () => {
  await browser?.close();
  files?.close();
});

const pageUrl = (path, host = 'localhost') => `http://${host}:${files.address().port}/browser/${path}`;

/** Calls `use` with a browser window that shares nothing with others. */
async function inWindow(use) {
  const context = await browser.newContext({ viewport: { width: 640, height: 640 } });
  try {
    await use(context);
  } finally {
    await context.close();
  }
}

describe('@stomp/stompjs 7 in Chromium', () => {
  let page, gateway;

  before(async () => {
    page = await browser.newPage();
    await page.exposeFunction('onGateway', act => gateway[act]());
    await page.goto(pageUrl('scenarios.html'));
  });
  after(() => page?.close());

  eachScenario(stompjs(WebSocket), (scenario, its) => {
    gateway = its;
    return page.evaluate(([title, url]) => play(title, url), [scenario.title, gateway.url]);
  });
});
