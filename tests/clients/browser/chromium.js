// Chromium, and the pages that it is shown, for the tests of one file.

import { after, before } from 'node:test';
import { chromium } from 'playwright-core';
import { serve } from './server.js';

const EXECUTABLE = process.env.CHROMIUM ?? '/usr/bin/chromium';
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

/** Starts Chromium, headless and with a fresh profile, before the tests of this file, and ends it after them. */
export function inChromium() {
  let browser, server;
  before(async () => {
    [browser, server] = await Promise.all([chromium.launch({ executablePath: EXECUTABLE, args: FLAGS }), serve()]);
  });
  after(async () => {
    await browser?.close();
    server?.close();
  });
  return {
    /** The origin of all pages, under any name of this machine. */
    origin: (host = 'localhost') => `http://${host}:${server.address().port}`,

    newPage: () => browser.newPage(),

    /** Calls `use` with a new page for each of `names`, none of which shares anything with another. */
    async atWindows(names, use) {
      const windows = await Promise.all(names.map(() => browser.newContext({ viewport: { width: 640, height: 560 } })));
      try {
        await use(await Promise.all(windows.map(window => window.newPage())));
      } finally {
        await Promise.all(windows.map(window => window.close()));
      }
    },
  };
}
