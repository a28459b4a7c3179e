// The product's client of the Kommo data plane's gateway.
// Written by `python -m deployments.product_client` from the OpenAPI document. Do not edit: change the gateway, run it.

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** What the gateway answered when it did not do what it was asked for. */
export class GatewayError extends Error {
  readonly status: number;
  /** What went wrong, as a word for programs, where there is one. */
  readonly reasonCode: string | null;
  /** Quote it to whoever runs the gateway. */
  readonly requestId: string | null;
  /** Seconds after which it may be tried again; null if trying again does not help by itself. */
  readonly retryAfter: number | null;
  readonly body: unknown;

  constructor(status: number, body: unknown, headers: Headers) {
    const told = (typeof body === "object" && body !== null ? body : {}) as Record<string, unknown>;
    super(String(told["detail"] ?? told["error"] ?? `HTTP ${status}`));
    this.name = "GatewayError";
    this.status = status;
    this.reasonCode = typeof told["reason_code"] === "string" ? told["reason_code"] : null;
    this.requestId = headers.get("x-request-id");
    const after = Number(headers.get("retry-after") ?? Number.NaN);
    this.retryAfter = Number.isFinite(after) ? after : null;
    this.body = body;
  }
}

export interface Answer<Status extends number, Body> {
  status: Status;
  body: Body;
  headers: Headers;
}

export interface GatewayOptions {
  /** The gateway's address, such as `https://crm.example.com`. */
  url: string;
  /** A key made by `kommo keys api create`. */
  apiKey: string;
  /** The org to act for: the product's tenant. */
  org: string;
  /** How often a request is tried that the gateway was too busy for or that got no answer; all of them bear it. */
  attempts?: number;
  fetch?: typeof fetch;
}

/** Seconds for which a caller is kept waiting before a request is tried again; what asks for more is given up. */
const LONGEST_PAUSE = 30;

interface Call {
  method: string;
  path: string;
  query?: Record<string, string | number | boolean | null | undefined>;
  headers?: Record<string, string | undefined>;
  body?: unknown;
}

/** The Kommo account. */
export interface Account {
  /** Kommo's id. */
  id: number | null;
  name: string | null;
  host: string;
}

/** How an action stands. */
export interface ActionAnswer {
  action_id: string;
  org: string;
  kind: ActionKind;
  idempotency_key: string;
  /**
   * `confirmed` and `failed` are for good. `intended` was not sent yet, `sent` is under way, `unknown` cannot be told
   * and is looked up again.
   */
  state: ActionState;
  /** What Kommo made of it, such as the task's id. */
  result: Record<string, Json> | null;
  /** Why, as a sentence for people. */
  reason: string | null;
  /** Why, as a word for programs. */
  reason_code: string | null;
  /** How often it was sent to Kommo. */
  attempts: number;
  created_at: string;
  updated_at: string;
}

/** The kinds of actions. */
export type ActionKind = "send-message" | "create-task" | "update-deal-field" | "add-note";

/** How an action stands. `confirmed` and `failed` are for good; `unknown` is looked up again by and by. */
export type ActionState = "intended" | "sent" | "confirmed" | "failed" | "unknown";

/** An internal note; it never reaches the customer. */
export interface AddNote {
  entity_type: "leads" | "contacts" | "companies";
  entity_id: number;
  text: string;
}

/** One item that differs. */
export interface ChangeAnswer {
  kind: string;
  /** The item's key within its kind. */
  key: string;
  name: string | null;
  /** The pipeline or field that it belongs to. */
  parent: string | null;
  change: ChangeKind;
  /** What changed, as it was; None if it was added. */
  before: Record<string, Json> | null;
  /** The same, as it is; None if it was removed. */
  after: Record<string, Json> | null;
  severity: Severity;
  /** Who is hit and how. */
  why: string;
}

/** What happened to an item. `changed` is everything that has no word of its own. */
export type ChangeKind = "added" | "removed" | "renamed" | "moved" | "type_changed" | "changed";

/** Some of the connections, in the order of their orgs. */
export interface ConnectionPage {
  items: ConnectionStatus[];
  /** What `after` must be for the next page; None if this is the last. */
  next_after: string | null;
}

/**
 * How a connection stands. `refreshing`: its pair is being replaced. `degraded`: it works in part (a listing is
 * refused, Kommo is often unreachable). `outcome_unknown`: it is not known whether Kommo replaced its pair; that will
 * be settled. `reauthorization_required`: only a person can help, by connecting again. `failed`: connecting never
 * succeeded.
 */
export type ConnectionState = "connected" | "refreshing" | "degraded" | "outcome_unknown" | "reauthorization_required" | "disconnected" | "failed";

/** How one org's connection stands. */
export interface ConnectionStatus {
  org: string;
  provider: string;
  /**
   * `connected` works; `refreshing` too; `degraded` works in part; `outcome_unknown` is being settled;
   * `reauthorization_required`, `disconnected` and `failed` need a person.
   */
  state: ConnectionState;
  /** Why, as a sentence for people. */
  reason: string | null;
  /** Why, as a word for programs. */
  reason_code: string | null;
  /** When the state began. */
  since: string;
  account: Account;
  /** What the token may do, as it says itself. */
  scopes: string[];
  /** End of the access token; it is renewed before. */
  expires_at: string | null;
  /** When the set-up was last read completely. */
  last_synced_at: string | null;
  last_sync: LastSync | null;
  /** None if nothing is known of them. */
  webhooks: Webhooks | null;
}

/** A task for a person of the sales team. */
export interface CreateTask {
  text: string;
  /** When it is due, in unix seconds (not milliseconds). */
  complete_till: number;
  task_type_id?: number;
  /** Without one, the token's own user. */
  responsible_user_id?: number | null;
  entity_id?: number | null;
  entity_type?: "leads" | "contacts" | "companies" | null;
}

/** A channel in which customers write. */
export interface CrmChannel {
  id: string;
  name: string | null;
  type: string | null;
  /** Kommo's id of the account. */
  account_id: number | null;
}

/** A custom field. */
export interface CrmField {
  id: number;
  name: string | null;
  type: string | null;
  /** A name for programs, which few fields have. */
  code: string | null;
  /** It comes with Kommo, or cannot be deleted. */
  is_system: boolean | null;
}

/** The lists that were asked for, and no others. */
export interface CrmLists {
  /** For `funnels` and `all`. */
  funnels?: Funnel[];
  /** For `channels` and `all`. */
  channels?: CrmChannel[];
  /** For `fields` and `all`. */
  dealFields?: CrmField[];
  /** For `fields` and `all`. */
  contactFields?: CrmField[];
}

/** What differs between what two runs saw, weightiest first. */
export interface DriftAnswer {
  org: string;
  from_run: string;
  to_run: string;
  /** The weight of the weightiest change; None if nothing changed. */
  worst: Severity | null;
  /** How many changes there are of each weight. */
  counts: Record<string, number>;
  changes: ChangeAnswer[];
  /** Kinds that were read for the first time: that is no drift. */
  not_compared: string[];
}

/** A pipeline. */
export interface Funnel {
  id: number;
  name: string | null;
  sort: number | null;
  is_main: boolean | null;
  /** In their order. */
  statuses: FunnelStatus[];
}

/** A stage of a funnel. */
export interface FunnelStatus {
  /** 142 is won and 143 is lost, in every funnel. */
  id: number;
  name: string | null;
  sort: number | null;
  color: string | null;
}

export type JsonValue = Json;

/** The newest reading of the account's set-up, finished or not. */
export interface LastSync {
  /** running, completed, failed or abandoned. */
  state: string;
  scope: string;
  started_at: string;
  finished_at: string | null;
  /** Why it failed. */
  reason: string | null;
}

/** How a sync stands. */
export type Phase = "scheduled" | "running" | "completed" | "failed";

/** What to read, in the product's own words. */
export type Scope = "all" | "funnels" | "channels" | "fields";

/** A text for the customer, in the open conversation that belongs to a deal or a contact. */
export interface SendMessage {
  entity_type: "leads" | "contacts";
  entity_id: number;
  text: string;
  /** Only into this channel: its id, name or origin as the channels' snapshot has them. */
  channel?: string | null;
  /** Write an internal note instead. It never reaches the customer, and the result says so. */
  as_note?: boolean;
}

/** How much a change matters. */
export type Severity = "breaking" | "warning" | "info";

/** One kind of an org's set-up, as it was at a time. */
export interface SnapshotAnswer {
  org: string;
  /** The kind's own name, also where it was asked for by the product's word. */
  kind: string;
  /** Since when it has been as it is here. */
  changed_at: string;
  /** In their order, with Kommo's names; statuses inside their pipeline and enums inside their field. */
  items: Record<string, Json>[];
}

/** What came of one kind in one run. `superseded`: a read that began later had already been saved. */
export type SnapshotState = "saved" | "failed" | "superseded";

/** A list that this sync could not read. */
export interface StalePart {
  /** Which of the lists. */
  part: string;
  /** Why, as a sentence. */
  reason: string;
  /** When what is answered instead was read; None if it never was, and then the list is left out. */
  taken_at: string | null;
}

/**
 * How a subscription stands. `off`: there is none, on purpose or because Kommo refuses it (the reason says which).
 * `disabled`: Kommo has switched it off. `missing`: it should be there and is not.
 */
export type SubscriptionState = "on" | "off" | "disabled" | "missing";

/** The lists that were asked for. */
export interface SyncAnswer {
  data: CrmLists;
  /** Only there if a list could not be read: it is then as it was read before, and named here. */
  stale?: StalePart[];
}

/** The sync has not ended yet. */
export interface SyncGoesOn {
  run_id: string;
  /** Where to ask how it stands; under the gateway's address. */
  status_url: string;
  state: Phase;
}

/** What became of one kind. */
export interface SyncKind {
  kind: string;
  state: SnapshotState;
  items: number;
  added: number;
  changed: number;
  removed: number;
  /** Why it could not be read. */
  reason: string | null;
}

/** What to read. */
export interface SyncRequest {
  /** `funnels`, `channels`, `fields` (of deals and contacts), or `all`. */
  type: Scope;
}

/** How a sync stands. */
export interface SyncStatus {
  run_id: string;
  org: string;
  state: Phase;
  /** Why it failed. */
  reason: string | null;
  /** None before it has begun. */
  started_at: string | null;
  finished_at: string | null;
  /** Requests sent to Kommo. */
  requests: number;
  kinds: SyncKind[];
}

/** A new value for one field of a deal. */
export interface UpdateDealField {
  deal_id: number;
  /** A custom field's id or code, or one of the deal's own: name, price, status_id, responsible_user_id. */
  field_id: number | string;
  /** In the field's form; null clears a custom field. */
  value: JsonValue;
}

/** What part of the changes of a time had come by webhook, by the newest comparison with Kommo's API. */
export interface WebhookCompleteness {
  /** From 0 to 1; what was missing has been repaired. */
  share: number;
  /**
   * False where something could not be compared, such as deletions that the token's user may not see: the share is that
   * of the rest.
   */
  whole: boolean;
  /** What changed, as the API says. */
  changes: number;
  /** Of these, what webhooks had told. */
  arrived: number;
  /** Of these, what was missing here and has been read. */
  repaired: number;
  since: string;
  until: string;
}

/** How an org's webhooks stand. */
export interface Webhooks {
  /**
   * `on`; `disabled`: Kommo has switched them off; `missing`: the subscription is gone (both are put right by the next
   * look); `off`: there is none, on purpose or because Kommo refuses it.
   */
  state: SubscriptionState | null;
  /** Why, as a sentence for people. */
  reason: string | null;
  /** When Kommo was last asked. */
  checked_at: string | null;
  completeness: WebhookCompleteness | null;
}

export class KommoGateway {
  private readonly options: GatewayOptions;

  constructor(options: GatewayOptions) {
    this.options = options;
  }

  /** The same for another org. */
  for(org: string): KommoGateway {
    return new KommoGateway({ ...this.options, org });
  }

  private async call<Result>(call: Call, good: readonly number[]): Promise<Result> {
    const url = new URL(call.path, this.options.url);
    for (const [name, value] of Object.entries(call.query ?? {})) {
      if (value !== undefined && value !== null) url.searchParams.set(name, String(value));
    }
    const headers = new Headers({ authorization: `Bearer ${this.options.apiKey}`, "x-kommo-org": this.options.org });
    for (const [name, value] of Object.entries(call.headers ?? {})) {
      if (value !== undefined) headers.set(name, value);
    }
    if (call.body !== undefined) headers.set("content-type", "application/json");
    const body = call.body === undefined ? null : JSON.stringify(call.body);
    const attempts = this.options.attempts ?? 3;
    for (let attempt = 1; ; attempt += 1) {
      let answer: Response;
      try {
        answer = await (this.options.fetch ?? fetch)(url, { method: call.method, headers, body, redirect: "manual" });
      } catch (error) {
        if (attempt >= attempts) throw error;
        await pause(attempt);
        continue;
      }
      const text = await answer.text();
      const isJson = (answer.headers.get("content-type") ?? "").includes("json");
      const told: unknown = isJson && text ? JSON.parse(text) : text || null;
      if (good.includes(answer.status)) {
        return { status: answer.status, body: told, headers: answer.headers } as Result;
      }
      const error = new GatewayError(answer.status, told, answer.headers);
      const seconds = error.retryAfter ?? attempt;
      if (![429, 503].includes(answer.status) || attempt >= attempts || seconds > LONGEST_PAUSE) throw error;
      await pause(seconds);
    }
  }

  /**
   * Have the set-up of an org's account read, and answer with it. Who asks for the same while it is under way waits for
   * the same run. A list that cannot be read fails none of the others: it is answered as it was read before, and named
   * under `stale`. The org is the one that the header `X-Kommo-Org` names; the agent is only noted in the log.
   */
  syncCrm(
    id: string,
    body: SyncRequest,
    options: { wait?: number; fresh?: boolean } = {},
  ): Promise<Answer<200, SyncAnswer> | Answer<202, SyncGoesOn>> {
    return this.call({ method: "POST", path: `/api/v1/agents/${encodeURIComponent(id)}/sync-crm`, body, query: { wait: options.wait, fresh: options.fresh } }, [200, 202]);
  }

  /** Every connection that the key may see, with its state, account and newest sync. */
  connections(options: { after?: string; limit?: number } = {}): Promise<Answer<200, ConnectionPage>> {
    return this.call({ method: "GET", path: `/api/v1/orgs`, query: { after: options.after, limit: options.limit } }, [200]);
  }

  /** State, reason and time of one org's connection, the account it belongs to, and its newest sync. */
  connection(): Promise<Answer<200, ConnectionStatus>> {
    return this.call({ method: "GET", path: `/api/v1/orgs/${encodeURIComponent(this.options.org)}/connection` }, [200]);
  }

  /** Everything of one kind, whole: from one reading that was read to its end. */
  snapshot(
    kind: "account" | "task_types" | "pipelines" | "statuses" | "channels" | "lead_fields" | "lead_field_enums" | "contact_fields" | "contact_field_enums" | "company_fields" | "company_field_enums" | "users" | "loss_reasons" | "funnels" | "stages" | "deal_fields" | "dealFields" | "contactFields" | "companyFields",
    options: { at?: string; raw?: boolean; ifNoneMatch?: string } = {},
  ): Promise<Answer<200, SnapshotAnswer> | Answer<304, null>> {
    return this.call({ method: "GET", path: `/api/v1/orgs/${encodeURIComponent(this.options.org)}/snapshots/${encodeURIComponent(kind)}`, query: { at: options.at, raw: options.raw }, headers: { "if-none-match": options.ifNoneMatch } }, [200, 304]);
  }

  /** What differs between what two runs saw, and what that breaks. Of runs that are not named, the newest two. */
  drift(options: { from?: string; to?: string } = {}): Promise<Answer<200, DriftAnswer>> {
    return this.call({ method: "GET", path: `/api/v1/orgs/${encodeURIComponent(this.options.org)}/drift`, query: { from: options.from, to: options.to } }, [200]);
  }

  /** A sync that was asked for: whether it has begun, how it ended, what became of each kind. */
  syncStatus(runId: string): Promise<Answer<200, SyncStatus>> {
    return this.call({ method: "GET", path: `/api/v1/orgs/${encodeURIComponent(this.options.org)}/syncs/${encodeURIComponent(runId)}` }, [200]);
  }

  /**
   * Send a text into the open conversation of a deal or contact. With `as_note` it becomes an internal note instead,
   * which the customer never sees, and the result says so.
   */
  sendMessage(
    body: SendMessage,
    idempotencyKey: string,
  ): Promise<Answer<201, ActionAnswer> | Answer<202, ActionAnswer>> {
    return this.call({ method: "POST", path: `/api/v1/orgs/${encodeURIComponent(this.options.org)}/messages`, body, headers: { "idempotency-key": idempotencyKey } }, [201, 202]);
  }

  /** Make a task for a person of the sales team, once. */
  createTask(body: CreateTask, idempotencyKey: string): Promise<Answer<201, ActionAnswer> | Answer<202, ActionAnswer>> {
    return this.call({ method: "POST", path: `/api/v1/orgs/${encodeURIComponent(this.options.org)}/tasks`, body, headers: { "idempotency-key": idempotencyKey } }, [201, 202]);
  }

  /** Give one field of a deal a value, after looking whether the field can have it. */
  updateDealField(
    body: UpdateDealField,
    idempotencyKey: string,
  ): Promise<Answer<200, ActionAnswer> | Answer<202, ActionAnswer>> {
    return this.call({ method: "POST", path: `/api/v1/orgs/${encodeURIComponent(this.options.org)}/deal-fields`, body, headers: { "idempotency-key": idempotencyKey } }, [200, 202]);
  }

  /** Write a note on a deal, contact or company. It never reaches the customer. */
  addNote(body: AddNote, idempotencyKey: string): Promise<Answer<201, ActionAnswer> | Answer<202, ActionAnswer>> {
    return this.call({ method: "POST", path: `/api/v1/orgs/${encodeURIComponent(this.options.org)}/notes`, body, headers: { "idempotency-key": idempotencyKey } }, [201, 202]);
  }

  /** An action that was asked for, whether it has been done or not. */
  action(actionId: string): Promise<Answer<200, ActionAnswer>> {
    return this.call({ method: "GET", path: `/api/v1/orgs/${encodeURIComponent(this.options.org)}/actions/${encodeURIComponent(actionId)}` }, [200]);
  }
}

function pause(seconds: number): Promise<void> {
  return new Promise((done) => setTimeout(done, seconds * 1000));
}
