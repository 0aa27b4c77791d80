// The balancer's API: reading, and the little that changes something.

const ROOT = "/api/v1/";
const PATIENCE = 5000;

/** What the API said no to, with its status. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** GET, as JSON. */
export async function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const search = new URLSearchParams(given).toString();
  return ask(search ? `${path}?${search}` : path, {});
}

/** POST, with the operator's token if there is one. */
export async function post(path, body, token) {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  return ask(path, { method: "POST", headers, body: JSON.stringify(body) });
}

async function ask(path, options) {
  const answer = await fetch(ROOT + path, {
    ...options,
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    signal: AbortSignal.timeout(PATIENCE),
  });
  const said = await answer.text();
  if (answer.ok) return JSON.parse(said);
  let message = said;
  try {
    message = JSON.parse(said).error ?? said;
  } catch {
    // Not in JSON: as it is.
  }
  throw new Refused(answer.status, message || `status ${answer.status}`);
}
