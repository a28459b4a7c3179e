// The receiver, given requests that are signed well and badly; says in JSON how it answered each.

import { receiver, verifyEvent, type CloudEvent } from "../../deployments/product-client/receiver.ts";

declare const process: { env: Record<string, string | undefined>; exitCode?: number };

interface Given {
  name: string;
  headers: Record<string, string>;
  body: string;
}

async function main(): Promise<void> {
  const given = JSON.parse(process.env["GIVEN"] ?? "[]") as Given[];
  const secrets = JSON.parse(process.env["SECRETS"] ?? "[]") as string[];
  const now = Number(process.env["NOW"]);
  const seen = new Set<string>();
  const handled: CloudEvent[] = [];
  const receive = receiver({
    secrets,
    now: () => now,
    isNew: async (id) => !seen.has(id),
    handle: async (event) => {
      if (event.type === "kommo.fails") throw new Error("the queue is full");
      seen.add(event.id);
      handled.push(event);
    },
  });
  const statuses: Record<string, number> = {};
  for (const one of given) {
    const request = new Request("https://app.example.com/api/kommo-events", {
      method: "POST",
      headers: one.headers,
      body: one.body,
    });
    statuses[one.name] = (await receive(request)).status;
  }
  const first = given[0];
  if (first === undefined) throw new Error("nothing was given");
  const event = await verifyEvent(new Headers(first.headers), first.body, secrets, now);
  console.log(JSON.stringify({ statuses, handled: handled.map((one) => one.id), type: event.type }));
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
