// The product's side of an event's way: a server that takes what is signed, and prints each event that it handles.

import { receiver } from "../../deployments/product-client/receiver.ts";

declare const process: { env: Record<string, string | undefined> };
declare function require(name: "node:http"): { createServer(answer: Answer): Server };

interface Incoming extends AsyncIterable<Uint8Array> {
  method: string;
  headers: Record<string, string>;
}
interface Outgoing {
  writeHead(status: number): { end(): void };
}
interface Server {
  listen(port: number, host: string, then: () => void): void;
  address(): { port: number };
}
type Answer = (request: Incoming, answer: Outgoing) => Promise<void>;

const handled = new Set<string>();
const take = receiver({
  secrets: [process.env["SECRET"] ?? ""],
  isNew: async (id) => !handled.has(id),
  handle: async (event) => {
    handled.add(event.id);
    console.log(JSON.stringify(event));
  },
});

const server = require("node:http").createServer(async (request, answer) => {
  const parts: Uint8Array[] = [];
  for await (const part of request) parts.push(part);
  const body = await new Blob(parts as BlobPart[]).text();
  const { method, headers } = request;
  const response = await take(new Request("http://127.0.0.1/", { method, headers, body }));
  answer.writeHead(response.status).end();
});
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
