// The product's own round trip, as its TypeScript would do it: start, consent, callback, status. fetch, and nothing else.

declare const process: { env: Record<string, string | undefined>; exitCode?: number };

interface ConnectionStatus {
  org: string;
  state: string;
  since: string;
  reason: string | null;
  account: { id: number | null; name: string | null; host: string };
  expires_at: string | null;
}

interface Told {
  status: number;
  location: string | null;
  body: unknown;
}

function setting(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

const gateway = setting("GATEWAY_URL");
const org = setting("ORG");
const signed = { Authorization: `Bearer ${setting("API_KEY")}`, "X-Kommo-Org": org };

async function get(url: string | URL, headers: Record<string, string> = {}): Promise<Told> {
  const answer = await fetch(url, { headers, redirect: "manual" });
  const text = await answer.text();
  const json = answer.headers.get("content-type")?.includes("json") ?? false;
  return {
    status: answer.status,
    location: answer.headers.get("location"),
    body: json ? (JSON.parse(text) as unknown) : text,
  };
}

function expect(what: string, found: unknown, wanted: unknown): void {
  const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`${what}: ${a} instead of ${b}`);
}

function redirect(what: string, told: Told): URL {
  if (![302, 307].includes(told.status) || !told.location) throw new Error(`${what}: ${JSON.stringify(told)}`);
  return new URL(told.location);
}

async function main(): Promise<void> {
  const start = new URL("/api/v1/crm/kommo/oauth", gateway);
  expect("no domain", await get(start, signed), { status: 400, location: null, body: { error: "Domain is required" } });
  start.searchParams.set("domain", setting("DOMAIN"));
  expect("nobody", (await get(start)).body, { error: "Unauthorized" });

  const consent = redirect("start", await get(start, signed));
  expect("length of the state", consent.searchParams.get("state")?.length, 32);

  // The person presses Allow: Kommo sends the browser to the redirect URI, and the product passes it on.
  consent.searchParams.set("auto", "allow");
  const callback = redirect("consent", await get(consent));
  expect("state", callback.searchParams.get("state"), consent.searchParams.get("state"));

  const incomplete = new URL(callback);
  incomplete.searchParams.delete("code");
  expect("no code", (await get(incomplete, signed)).body, { error: "Invalid request" });

  const home = redirect("callback", await get(callback, signed));
  expect("home", home.href, `${setting("APP_URL")}/manage/${org}/ai-agents`);
  expect("again", (await get(callback, signed)).body, { error: "Invalid or expired state" });

  const told = await get(new URL(`/api/v1/orgs/${org}/connection`, gateway), signed);
  expect("status", told.status, 200);
  const status = told.body as ConnectionStatus;
  expect("state of the connection", [status.org, status.state, status.reason], [org, "connected", null]);
  if (!(Date.parse(status.since) <= Date.now() + 60_000)) throw new Error(`since: ${status.since}`);
  if (!(Date.parse(status.expires_at ?? "") > Date.now())) throw new Error(`expires_at: ${status.expires_at}`);
  console.log(JSON.stringify({ account: status.account.id, host: status.account.host }));
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
