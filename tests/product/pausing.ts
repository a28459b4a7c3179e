// The client, told to come again later: says in JSON how often it asked and what it made of it.

import { GatewayError, KommoGateway } from "../../deployments/product-client/client.ts";

declare const process: { exitCode?: number };

async function asked(retryAfter: string): Promise<{ calls: number; status: number }> {
  let calls = 0;
  const gateway = new KommoGateway({
    url: "https://crm.example.com",
    apiKey: "kdp_test",
    org: "acme",
    fetch: async () => {
      calls += 1;
      const told = { headers: { "content-type": "application/json", "retry-after": retryAfter } };
      return calls === 1 ? new Response("{}", { status: 503, ...told }) : new Response("{}", { status: 200, ...told });
    },
  });
  try {
    return { status: (await gateway.connection()).status, calls };
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error;
    return { status: error.status, calls };
  }
}

async function main(): Promise<void> {
  console.log(JSON.stringify({ soon: await asked("0"), late: await asked("3600") }));
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
