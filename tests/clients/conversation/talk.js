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

/** Has the conversation of `scenario`. */
export function have(scenario, client, gateway) {
  return talk(client, gateway, connect => scenario.play({ ...scenario, client, connect, gateway }));
}
