// Every conversation that a client must be able to have with the gateway, written once for all of them.
//
// A scenario is
//   title
//   play({ client, connect, gateway, topic, queue })    connect(options) makes a Peer, taken away after the scenario
//   needs?          something that not every client can do: a key of the client's `cannot`
//   own?            it wants a gateway to itself, with these settings, to take away or to freeze:
//                   { url, start(), stop(), kill(), freeze(), thaw() }
//   topic, queue    destinations that no other scenario uses

import { acknowledging } from './acknowledging.js';
import { contents } from './contents.js';
import { endings } from './endings.js';
import { heartbeats } from './heartbeats.js';
import { connecting, messages } from './messages.js';
import { queues } from './queues.js';
import { refusals } from './refusals.js';
import { transactions } from './transactions.js';

export const scenarios = client =>
  every(client).map((scenario, index) => ({ ...scenario, topic: `/topic/talk-${index}`, queue: `/queue/talk-${index}` }));

const every = client => [
  ...client.versions.flatMap(version => [connecting(version), ...acknowledging(version)]),
  ...messages,
  ...queues,
  ...transactions,
  ...contents(client),
  ...refusals,
  ...endings,
  ...heartbeats(client),
];
