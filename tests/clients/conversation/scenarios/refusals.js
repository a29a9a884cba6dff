// ERROR: what it says, what follows, and whom it leaves alone.

import { equal, failure, ok } from '../expect.js';

/** A refusal: what the client does, and what the gateway says to it. */
const refusal = (title, { code, message, close = 1008 }, provoke) => ({
  title: `ERROR: ${title}`,
  async play(context) {
    const alice = await context.connect();
    await provoke(alice, context);
    const { headers, body } = await alice.errors.next();
    equal([headers.code, headers.message], [code, message], 'ERROR');
    ok(body.length > headers.message.length, 'the body should explain');
    const end = await alice.closes.next();
    equal([end.code, end.wasClean], [close, true], 'close');
  },
});

export const refusals = [
  refusal('SEND to a destination of no kind', { code: 'unknown-destination', message: 'Unknown destination' }, alice =>
    alice.publish('/nowhere/at.all', 'lost', {}),
  ),
  refusal('SUBSCRIBE to it', { code: 'unknown-destination', message: 'Unknown destination' }, alice =>
    alice.listen('/nowhere/at.all', () => {}, {}),
  ),
  refusal('SEND without a destination', { code: 'missing-header', message: 'Missing destination', close: 1002 }, alice =>
    alice.publish('', 'lost', {}),
  ),
  refusal('SEND in a transaction that nobody began', { code: 'unknown-transaction', message: 'Transaction not found' },
    (alice, { topic }) => alice.publish(topic, 'lost', { transaction: 'tx-none' }),
  ),
  refusal('the same subscription id twice',
    { code: 'duplicate-subscription', message: 'Duplicated subscription identifier' },
    async (alice, { topic }) => {
      await alice.subscribe(topic, { id: 'news' });
      alice.listen(topic, () => {}, { id: 'news' });
    },
  ),
  {
    title: 'ERROR names the receipt of the frame that caused it, and what came before is done',
    async play({ connect, topic }) {
      const [alice, bob] = [await connect(), await connect()];
      const inbox = await bob.subscribe(topic);
      const good = alice.send(topic, 'good');
      const { frame } = await failure(alice.send('/nowhere/at.all', 'bad'), 'the bad SEND');
      ok(frame.headers['receipt-id'], 'ERROR has no receipt-id');
      ok((await good).headers['receipt-id'] !== frame.headers['receipt-id'], 'ERROR names the receipt of the good SEND');
      equal((await inbox.next()).body, 'good');
    },
  },
  {
    title: 'a session that fails takes no other with it',
    async play({ connect, topic }) {
      const [alice, bob] = [await connect(), await connect()];
      const inbox = await bob.subscribe(topic);
      alice.publish('/nowhere/at.all', 'bad', {});
      await alice.closes.next();
      await bob.send(topic, 'still here');
      equal((await inbox.next()).body, 'still here');
    },
  },
];
