// Registers every scenario for one client with Node's test runner.

import { after, before, describe, test } from 'node:test';
import { scenarios } from './conversation/scenarios.js';
import { Gateway } from './gateway.js';

/** Every scenario, had with `client` in this process. */
export function converse(client) {
  describe(client.name, () => {
    eachScenario(client, (scenario, gateway) =>
      talk(client, gateway, connect => scenario.play({ ...scenario, client, connect, gateway })),
    );
  });
}

/** Registers a test for every scenario; `play` gets its gateway, which is shared unless the scenario wants its own. */
export function eachScenario(client, play) {
  const shared = sharedGateway();
  for (const scenario of scenarios(client)) {
    const skip = client.cannot[scenario.needs] ?? false;
    test(scenario.title, { skip }, () => (scenario.own ? onOwnGateway(own => play(scenario, own)) : play(scenario, shared())));
  }
}

/** One gateway for all tests of a `describe`; returns how to get at it. */
export function sharedGateway(settings) {
  let gateway;
  before(async () => (gateway = await Gateway.start(settings)));
  after(() => gateway.stop());
  return () => gateway;
}

/** Calls `play` with a way to connect, `as` another client too, and takes away whoever connected when it ends. */
export async function talk(client, gateway, play) {
  const peers = [];
  const connect = async (options, as = client) => {
    const peer = await as.connect(gateway.url, options);
    peers.push(peer);
    return peer;
  };
  try {
    await play(connect);
  } finally {
    await Promise.all(peers.map(peer => peer.drop()));
  }
}

async function onOwnGateway(play) {
  const own = await Gateway.start();
  try {
    await play(own);
  } finally {
    await own.kill();
  }
}
