// Registers every scenario for one client with Node's test runner.

import { after, before, describe, test } from 'node:test';
import { scenarios } from './conversation/scenarios/index.js';
import { have } from './conversation/talk.js';
import { Gateway } from './gateway.js';

/** Long after any wait inside a test has given up by itself. */
export const LIMIT = 60_000;

/** Every scenario, had with `client` in this process. */
export function converse(client) {
  describe(client.name, () => eachScenario(client, (scenario, gateway) => have(scenario, client, gateway)));
}

/**
 * Registers a test for every scenario; `play` gets its gateway, which is shared unless the scenario wants its own. All of
 * them have these settings.
 */
export function eachScenario(client, play, settings = {}) {
  const shared = sharedGateway(settings);
  for (const scenario of scenarios(client)) {
    const skip = client.cannot[scenario.needs] ?? false;
    test(scenario.title, { skip, timeout: LIMIT }, () =>
      scenario.own ? onOwnGateway({ ...settings, ...scenario.own }, own => play(scenario, own)) : play(scenario, shared()),
    );
  }
}

/** One gateway for all tests of a `describe`; returns how to get at it. */
export function sharedGateway(settings) {
  let gateway;
  before(async () => (gateway = await Gateway.start(settings)));
  after(() => gateway.stop());
  return () => gateway;
}

/** Calls `play` with a gateway that is started for it. */
export async function onOwnGateway(settings, play) {
  const own = await Gateway.start(settings);
  try {
    await play(own);
  } finally {
    await own.kill();
  }
}
