// The product's full cycle: OAuth, then with the client a sync, the four lists, a task, a message, a field; and what
// goes wrong on the way.

import { GatewayError, KommoGateway } from "../../deployments/product-client/client.ts";

declare const process: { env: Record<string, string | undefined>; exitCode?: number };

function setting(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

function expect(what: string, found: unknown, wanted: unknown): void {
  const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`${what}: ${a} instead of ${b}`);
}

async function refused(what: string, work: Promise<unknown>): Promise<GatewayError> {
  try {
    await work;
  } catch (error) {
    if (error instanceof GatewayError) return error;
    throw error;
  }
  throw new Error(`${what} was not refused`);
}

/** Where an answer sends the browser. */
async function redirected(url: URL, headers: Record<string, string> = {}): Promise<URL> {
  const answer = await fetch(url, { headers, redirect: "manual" });
  const location = answer.headers.get("location");
  if (!location) throw new Error(`${url.pathname}: ${answer.status} ${await answer.text()}`);
  return new URL(location);
}

async function connect(): Promise<void> {
  const signed = { Authorization: `Bearer ${setting("API_KEY")}`, "X-Kommo-Org": setting("ORG") };
  const start = new URL("/api/v1/crm/kommo/oauth", setting("GATEWAY_URL"));
  start.searchParams.set("domain", setting("DOMAIN"));
  const consent = await redirected(start, signed);
  consent.searchParams.set("auto", "allow"); // the person presses Allow
  const home = await redirected(await redirected(consent), signed);
  expect("home", home.pathname, `/manage/${setting("ORG")}/ai-agents`);
}

async function main(): Promise<void> {
  const crm = new KommoGateway({ url: setting("GATEWAY_URL"), apiKey: setting("API_KEY"), org: setting("ORG") });
  const early = await refused("a sync before there is a connection", crm.syncCrm("agent-1", { type: "all" }));
  expect("not connected", [early.status, early.message], [400, "CRM not connected"]);
  await connect();

  const [lead, contact] = [Number(setting("LEAD")), Number(setting("CONTACT"))];

  const synced = await crm.syncCrm("agent-1", { type: "all" }, { wait: 60 });
  if (synced.status !== 200) throw new Error(`the sync goes on: ${synced.body.status_url}`);
  const { funnels = [], channels = [], dealFields = [], contactFields = [] } = synced.body.data;
  const stages = funnels.flatMap((funnel) => funnel.statuses.map((status) => status.name));
  expect("stale", synced.body.stale, undefined);

  const first = await crm.snapshot("pipelines");
  if (first.status !== 200) throw new Error("304 without a tag");
  expect("the snapshot has the same funnels", first.body.items.length, funnels.length);
  const again = await crm.snapshot("pipelines", { ifNoneMatch: first.headers.get("etag") ?? "" });
  expect("nothing has changed", [again.status, again.body], [304, null]);

  const task = { text: "Call Ann", complete_till: 1_800_000_000, entity_id: lead, entity_type: "leads" as const };
  const made = await crm.createTask(task, "key-task");
  expect("task", [made.status, made.body.state], [201, "confirmed"]);
  const repeated = await crm.createTask(task, "key-task");
  expect("the same task", repeated.body.result, made.body.result);
  const shown = await crm.action(made.body.action_id);
  expect("shown", shown.body, made.body);
  const conflict = await refused("another task", crm.createTask({ ...task, text: "Call Bob" }, "key-task"));
  expect("conflict", [conflict.status, conflict.reasonCode], [409, "idempotency_conflict"]);

  const message = await crm.sendMessage({ entity_type: "contacts", entity_id: contact, text: "Hello" }, "key-message");
  expect("message", [message.status, message.body.result?.["as"]], [201, "message"]);

  const select = dealFields.find((field) => field.type === "select");
  if (!select) throw new Error("no select among the deal's fields");
  const wrong = await refused(
    "a wrong value",
    crm.updateDealField({ deal_id: lead, field_id: select.id, value: "no such choice" }, "key-wrong"),
  );
  expect("wrong value", [wrong.status, wrong.reasonCode], [422, "invalid"]);
  const value = setting("VALUE");
  const updated = await crm.updateDealField({ deal_id: lead, field_id: select.id, value }, "key-field");
  expect("field", [updated.status, updated.body.state], [200, "confirmed"]);

  const connection = await crm.connection();
  const nobody = await refused("another org", crm.for("globex").connection());
  console.log(
    JSON.stringify({
      lists: [funnels.length, channels.length, dealFields.length, contactFields.length],
      stages: stages.length,
      field: select.id,
      task: made.body.result,
      state: connection.body.state,
      nobody: nobody.status,
      choices: wrong.message,
    }),
  );
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
