// What a message may hold: headers and bodies that have to survive the way.

import { equal, ok } from '../expect.js';

export const contents = client => [...headers(client), ...payloads];

/** Colon, line feed and backslash must be escaped; the rest only must survive UTF-8. */
const AWKWARD = 'Grüße: 世界 🌍\nzweite Zeile \\ Ende';

/** What is on the wire for `text`: what an application reads and writes whose client leaves escaping to it. */
export const escaped = text => text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll(':', '\\c');

const headers = client => [
  {
    title: client.cannot['escape headers']
      ? 'header values that the application escapes itself come back as it wrote them'
      : 'header values with a colon, a line feed, a backslash and all of Unicode come back unchanged',
    async play({ connect, topic }) {
      const written = client.cannot['escape headers'] ? escaped(AWKWARD) : AWKWARD;
      const alice = await connect();
      const inbox = await alice.subscribe(topic);
      await alice.send(topic, 'see header', { subject: written });
      equal((await inbox.next()).headers.subject, written, 'subject');
    },
  },
  {
    title: 'a name in the destination with a space, an umlaut and percent signs is one and the same for both sides',
    async play({ connect, topic }) {
      const alice = await connect();
      const inbox = await alice.subscribe(`${topic}.gr%C3%BC%C3%9Fe an alle`);
      await alice.send(`${topic}.grüße%20an alle`, 'hallo');
      equal((await inbox.next()).body, 'hallo');
    },
  },
];

/** Every byte there is, NUL first and in the middle. */
const EVERY_BYTE = Uint8Array.from({ length: 512 }, (_, index) => index % 256);

/** 200 KB of text in which a byte is not a character. */
const LARGE = 'Zeile 世界 ÄÖÜ 0123456789\n'.repeat(7_000);
const LARGE_BYTES = new TextEncoder().encode(LARGE).length;

const payloads = [
  {
    title: 'an empty body',
    async play({ connect, topic }) {
      const alice = await connect();
      const inbox = await alice.subscribe(topic);
      await alice.send(topic, '');
      equal((await inbox.next()).body, '');
    },
  },
  {
    title: 'a binary body of every byte, NULs among them',
    needs: 'send bytes',
    async play({ connect, topic }) {
      const [alice, bob] = [await connect(), await connect()];
      const inbox = await bob.subscribe(topic);
      await alice.send(topic, EVERY_BYTE, { 'content-type': 'application/octet-stream' });
      const message = await inbox.next();
      equal([...message.bytes], [...EVERY_BYTE], 'bytes');
      equal(message.headers['content-length'], '512', 'content-length');
    },
  },
  {
    title: 'a body of 200 KB that the client splits over many WebSocket messages',
    async play({ connect, queue }) {
      const alice = await connect({ split: true });
      const inbox = await alice.subscribe(queue);
      const before = alice.written.length;
      await alice.send(queue, LARGE);
      ok(alice.written.length - before > 8, `was written as ${alice.written.length - before} messages`);
      const { body, headers } = await inbox.next();
      ok(body === LARGE, `body of ${LARGE.length} characters came back changed (${body.length})`);
      equal(headers['content-length'], String(LARGE_BYTES), 'content-length');
    },
  },
  {
    title: 'a body of 200 KB in binary WebSocket messages',
    needs: 'send binary WebSocket messages',
    async play({ connect, queue }) {
      const alice = await connect({ binaryFrames: true });
      const inbox = await alice.subscribe(queue);
      await alice.send(queue, LARGE);
      ok(alice.written.every(message => message.binary), 'a message was not binary');
      const { body } = await inbox.next();
      ok(body === LARGE, `body of ${LARGE.length} characters came back changed (${body.length})`);
    },
  },
];
