// Receiving what the data plane tells: CloudEvents 1.0 in JSON, signed as Standard Webhooks says.
// An example to copy into the product. It needs Web Crypto only: Node 20, Next.js, edge runtimes.
//
// In Next.js, app/api/kommo-events/route.ts:
//   export const POST = receiver({ secrets: [process.env.KOMMO_EVENTS_SECRET!], handle, isNew });

export interface CloudEvent<Data = Record<string, unknown>> {
  specversion: string;
  id: string;
  source: string;
  type: string;
  subject?: string;
  time?: string;
  datacontenttype?: string;
  data: Data;
}

export class SignatureError extends Error {}

/** Seconds by which the sender's clock and ours may differ, and for which a captured request could be replayed. */
export const TOLERANCE_SECONDS = 300;

function bytesOf(base64: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

/** A secret as it is handed out: `whsec_` and base64. */
async function keyOf(secret: string): Promise<CryptoKey> {
  const raw = bytesOf(secret.startsWith("whsec_") ? secret.slice("whsec_".length) : secret);
  return crypto.subtle.importKey("raw", raw, { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
}

/**
 * Check a request's signature and give its event.
 *
 * @param headers the request's headers
 * @param body the body's text exactly as it came: not parsed and written again
 * @param secrets every secret that is good at the moment; while one is replaced, the old and the new
 * @param now the present time in milliseconds
 * @throws SignatureError if it is not from the data plane, or too old
 */
export async function verifyEvent(
  headers: Headers,
  body: string,
  secrets: readonly string[],
  now: number = Date.now(),
): Promise<CloudEvent> {
  const id = headers.get("webhook-id");
  const timestamp = headers.get("webhook-timestamp");
  const signatures = headers.get("webhook-signature");
  if (!id || !timestamp || !signatures) throw new SignatureError("a header of the signature is missing");
  if (!/^\d{1,12}$/.test(timestamp)) throw new SignatureError("the timestamp is no number of seconds");
  if (Math.abs(now / 1000 - Number(timestamp)) > TOLERANCE_SECONDS) {
    throw new SignatureError("the timestamp is too far from the present time");
  }
  const signed = new TextEncoder().encode(`${id}.${timestamp}.${body}`);
  // One signature for each of the sender's secrets, separated by blanks; versions that are not known are passed over.
  const given = signatures
    .split(" ")
    .filter((one) => one.startsWith("v1,"))
    .map((one) => one.slice("v1,".length));
  let good = false;
  for (const secret of secrets) {
    const key = await keyOf(secret);
    for (const one of given) {
      let signature: Uint8Array<ArrayBuffer>;
      try {
        signature = bytesOf(one);
      } catch {
        continue; // not base64
      }
      // `verify` compares in constant time.
      if (await crypto.subtle.verify("HMAC", key, signature, signed)) good = true;
    }
  }
  if (!good) throw new SignatureError("no signature fits");
  const event = JSON.parse(body) as CloudEvent;
  if (event.id !== id) throw new SignatureError("the event has another id than the header");
  return event;
}

export interface ReceiverOptions {
  secrets: readonly string[];
  /**
   * Do the work, or better: put it into a queue. If it throws, the event comes again. Write the event's id in the same
   * transaction (a table with a unique id), so that it is there if, and only if, the work is done; of two requests
   * with one event at once, the second then fails, comes again, and finds the id.
   */
  handle: (event: CloudEvent) => Promise<void>;
  /**
   * Whether this id has not been handled yet: delivery is at least once, so every event may come twice. It only looks.
   * If it wrote the id down itself, an event whose work fails would count as handled when it comes again.
   */
  isNew: (id: string) => Promise<boolean>;
  now?: () => number;
}

/** A handler of requests: 204 if the event is handled or was before, 401 if it is not signed, 500 if it must come again. */
export function receiver(options: ReceiverOptions): (request: Request) => Promise<Response> {
  return async (request) => {
    const body = await request.text();
    let event: CloudEvent;
    try {
      event = await verifyEvent(request.headers, body, options.secrets, (options.now ?? Date.now)());
    } catch (error) {
      if (error instanceof SignatureError) return new Response(null, { status: 401 });
      return new Response(null, { status: 400 });
    }
    try {
      if (await options.isNew(event.id)) await options.handle(event);
    } catch {
      return new Response(null, { status: 500 });
    }
    return new Response(null, { status: 204 });
  };
}
