import { describe, test } from 'node:test';
import Stomp from 'stompjs';
import { stompjs2 } from './adapters/stompjs-2.js';
import { equal } from './conversation/expect.js';
import { converse, sharedGateway } from './suite.js';

converse(stompjs2);

describe('stompjs 2.3: Stomp.overWS, with the WebSocket that it brings along for Node', () => {
  const gateway = sharedGateway();

  test('connects without offering a sub-protocol, and hears what it says', async () => {
    const client = Stomp.overWS(gateway().url);
    client.debug = undefined;
    const message = new Promise((resolve, reject) =>
      client.connect({}, () => {
        client.subscribe('/topic/over-ws', resolve);
        client.send('/topic/over-ws', {}, 'hello');
      }, reject),
    );
    equal((await message).body, 'hello');
    await new Promise(resolve => client.disconnect(resolve));
  });
});
