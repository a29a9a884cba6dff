// The few assertions that scenarios need, the same in Node and in a browser.

export function equal(actual, expected, what = 'value') {
  const [is, should] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (is !== should) throw new Error(`${what}: is ${brief(is)}, should be ${brief(should)}`);
}

export function ok(condition, what) {
  if (!condition) throw new Error(what);
}

/** The error with which `promise` fails. */
export async function failure(promise, what = 'it') {
  const outcome = await promise.then(() => undefined, error => error);
  ok(outcome, `${what} should have failed`);
  return outcome;
}

/** What to compare of several messages. */
export function bodies(messages) {
  return messages.map(message => message.body);
}

function brief(text) {
  return text?.length > 500 ? `${text.slice(0, 500)}… (${text.length} characters)` : text;
}
