import { RxStompRPC } from '@stomp/rx-stomp';
import { describe, test } from 'node:test';
import { firstValueFrom, take, toArray } from 'rxjs';
import { rxStomp } from './adapters/rx-stomp.js';
import { equal } from './conversation/expect.js';
import { talk } from './conversation/talk.js';
import { converse, sharedGateway } from './suite.js';

converse(rxStomp);

describe('@stomp/rx-stomp 2: RxStompRPC', () => {
  const gateway = sharedGateway();

  /** A service on `queue` that answers each request with every text that `answers` makes of it. */
  async function serve(connect, queue, answers) {
    const server = await connect();
    const serving = server.rx.watch(queue).subscribe(({ body, headers }) => {
      for (const answer of answers(body)) {
        const { 'reply-to': destination, 'correlation-id': id } = headers;
        server.rx.publish({ destination, body: answer, headers: { 'correlation-id': id } });
      }
    });
    await server.send('/topic/rpc', 'the SUBSCRIBE before this is done');
    return serving;
  }

  const ask = async (rpc, destination, body) => (await firstValueFrom(rpc.rpc({ destination, body }))).body;

  test('many requests at once are answered each with its own', () =>
    talk(rxStomp, gateway(), async connect => {
      await serve(connect, '/queue/double', number => [`${2 * number}`]);
      const rpc = new RxStompRPC((await connect()).rx);
      const answers = await Promise.all([...'123456789'].map(number => ask(rpc, '/queue/double', number)));
      equal(answers, ['2', '4', '6', '8', '10', '12', '14', '16', '18']);
    }));

  test('a stream brings all answers to one request, in order', () =>
    talk(rxStomp, gateway(), async connect => {
      await serve(connect, '/queue/letters', word => [...word]);
      const rpc = new RxStompRPC((await connect()).rx);
      const letters = rpc.stream({ destination: '/queue/letters', body: 'STOMP' }).pipe(take(5), toArray());
      equal((await firstValueFrom(letters)).map(({ body }) => body).join(''), 'STOMP');
    }));

  test('two callers with the same correlation-id hear only their own answers', () =>
    talk(rxStomp, gateway(), async connect => {
      await serve(connect, '/queue/greet', name => [`hello ${name}`]);
      const [alice, bob] = [await connect(), await connect()];
      const headers = { 'correlation-id': 'same' };
      const answers = await Promise.all(
        [[alice, 'Alice'], [bob, 'Bob']].map(([{ rx }, body]) =>
          firstValueFrom(new RxStompRPC(rx).rpc({ destination: '/queue/greet', body, headers })),
        ),
      );
      equal(answers.map(({ body }) => body), ['hello Alice', 'hello Bob']);
      equal([alice, bob].map(({ strays }) => strays.size), [1, 1], 'answers that arrived');
    }));

  test('answers come to an explicit subscription to the /temp-queue as well', () =>
    talk(rxStomp, gateway(), async connect => {
      await serve(connect, '/queue/shout', text => [text.toUpperCase()]);
      const { rx, strays } = await connect();
      const rpc = new RxStompRPC(rx, {
        replyQueueName: '/temp-queue/loud',
        setupReplyQueue: (name, rx) => rx.watch(name),
      });
      equal(await ask(rpc, '/queue/shout', 'psst'), 'PSST');
      equal(strays.size, 0, 'messages that belong to no subscription');
    }));
});
