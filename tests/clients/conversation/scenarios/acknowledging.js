// The three ack modes, NACK, and what a consumer leaves behind, in each version.

import { equal } from '../expect.js';

/** Sends three messages to `queue` and has a consumer with `ack` receive them. */
export async function threeReceived({ connect, queue, version }, ack) {
  const consumer = await connect({ version });
  const inbox = await consumer.subscribe(queue, { ack });
  for (const body of ['one', 'two', 'three']) await consumer.send(queue, body);
  return { consumer, inbox, received: await inbox.take(3) };
}

/** What the next consumer of `queue` gets, until the one message that it sends there itself. */
export async function leftovers({ connect, queue, version }) {
  const next = await connect({ version });
  const inbox = await next.subscribe(queue);
  await next.send(queue, 'end of queue');
  const left = [];
  for (;;) {
    const { body, headers } = await inbox.next();
    if (body === 'end of queue') return left;
    equal(headers.redelivered, 'true', `redelivered of "${body}"`);
    left.push(body);
  }
}

export const acknowledging = version => {
  const prefixed = ({ title, ...scenario }) => ({
    ...scenario,
    title: `STOMP ${version}: ${title}`,
    play: context => scenario.play({ ...context, version }),
  });
  return [
    {
      title: 'ack:auto, nothing to acknowledge and nothing comes twice',
      async play(context) {
        const { consumer } = await threeReceived(context, 'auto');
        await consumer.disconnect();
        equal(await leftovers(context), [], 'left in the queue');
      },
    },
    {
      title: 'ack:client, an ACK settles all before it',
      async play(context) {
        const { consumer, received } = await threeReceived(context, 'client');
        await received[1].ack();
        await consumer.disconnect();
        equal(await leftovers(context), ['three'], 'left in the queue');
      },
    },
    {
      title: 'ack:client-individual, an ACK settles its own message',
      async play(context) {
        const { consumer, received } = await threeReceived(context, 'client-individual');
        await received[1].ack();
        await consumer.disconnect();
        equal(await leftovers(context), ['one', 'three'], 'left in the queue');
      },
    },
    // STOMP 1.0 has no NACK.
    version !== '1.0' && {
      title: 'NACK brings the message again, marked as redelivered',
      async play(context) {
        const { inbox, received } = await threeReceived(context, 'client-individual');
        equal(received[0].headers.redelivered === 'true', false, 'redelivered at first');
        await received[0].nack();
        const again = await inbox.next();
        equal([again.body, again.headers.redelivered], ['one', 'true'], 'second delivery');
        await again.ack();
      },
    },
    version !== '1.0' && {
      title: 'NACK with requeue:false gives the message up',
      async play(context) {
        const { consumer, received } = await threeReceived(context, 'client-individual');
        await received[0].nack({ requeue: 'false' });
        await consumer.disconnect();
        equal(await leftovers(context), ['two', 'three'], 'left in the queue');
      },
    },
    {
      title: 'a consumer that vanishes leaves what it did not acknowledge to the next',
      async play(context) {
        const { consumer, received } = await threeReceived(context, 'client-individual');
        await received[0].ack();
        consumer.drop();
        await consumer.closes.next();
        equal(await leftovers(context), ['two', 'three'], 'left in the queue');
      },
    },
  ]
    .filter(Boolean)
    .map(prefixed);
};
