// Clients of different kinds and versions in one conversation: what one writes, each other reads.

import { describe, test } from 'node:test';
import WebSocket from 'ws';
import { stompjs } from './adapters/stompjs.js';
import { stompjs2 } from './adapters/stompjs-2.js';
import { webstompClient } from './adapters/webstomp.js';
import { equal } from './conversation/expect.js';
import { escaped } from './conversation/scenarios/contents.js';
import { talk } from './conversation/talk.js';
import { sharedGateway } from './suite.js';

const modern = stompjs(WebSocket);

describe('clients of different kinds', () => {
  const gateway = sharedGateway();
  const speakers = [modern, stompjs2, webstompClient].flatMap(client =>
    client.versions.map(version => ({ client, version, label: `${client.name} in STOMP ${version}` })),
  );

  for (const { client, version, label } of speakers) {
    test(`what ${label} says, all others hear`, () =>
      talk(client, gateway(), async connect => {
        const topic = `/topic/interop.${client.name.replace(/[^a-z]/g, '')}.${version.replace('.', '-')}`;
        const listeners = [];
        for (const speaker of speakers) {
          const peer = await connect({ version: speaker.version }, speaker.client);
          listeners.push({ label: speaker.label, inbox: await peer.subscribe(topic) });
        }
        const speaker = await connect({ version });
        await speaker.send(topic, 'Grüße an 世界', { mood: 'sonnig', 'content-type': 'text/plain' });
        for (const { label, inbox } of listeners) {
          const { body, headers } = await inbox.next();
          const heard = [body, headers.mood, headers['content-type'], headers['content-length']];
          equal(heard, ['Grüße an 世界', 'sonnig', 'text/plain', '17'], label);
        }
      }));
  }

  test('a header that needs escaping reaches each reader as its version writes it', () =>
    talk(modern, gateway(), async connect => {
      const subject = 'Re: Preis\nheute';
      const topic = '/topic/interop.escapes';
      const in10 = await connect({ version: '1.0' }, stompjs2);
      const in11 = await connect({ version: '1.1' }, stompjs2);
      const in12 = await connect({ version: '1.2' });
      const inboxes = [];
      for (const peer of [in10, in11, in12]) inboxes.push(await peer.subscribe(topic));
      await in12.send(topic, 'see header', { subject, colon: 'a:b' });
      const [from10, from11, from12] = await Promise.all(inboxes.map(inbox => inbox.next()));
      // STOMP 1.0 cannot express a line feed in a header, so it is left out rather than injected.
      equal([from10.headers.subject, from10.headers.colon], [undefined, 'a:b'], 'in STOMP 1.0');
      equal([from11.headers.subject, from11.headers.colon], [escaped(subject), escaped('a:b')], 'in STOMP 1.1');
      equal([from12.headers.subject, from12.headers.colon], [subject, 'a:b'], 'in STOMP 1.2');
    }));
});
