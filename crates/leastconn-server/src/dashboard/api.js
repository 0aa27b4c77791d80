// Requests to the balancer's API.

const ROOT = "/api/v1/";
/** Time limit of a request, milliseconds. */
const TIMEOUT = 5000;

/** An error response of the API. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Sends a GET request; returns the parsed JSON. */
export async function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const search = new URLSearchParams(given).toString();
  return request(search ? `${path}?${search}` : path, {});
}

/** Sends a POST request, with `token` if it is not empty. */
export async function post(path, body, token) {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  return request(path, { method: "POST", headers, body: JSON.stringify(body) });
}

async function request(path, options) {
  const response = await fetch(ROOT + path, {
    ...options,
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    signal: AbortSignal.timeout(TIMEOUT),
  });
  const body = await response.text();
  if (response.ok) return JSON.parse(body);
  let message = body;
  try {
    message = JSON.parse(body).error ?? body;
  } catch {
    // Not JSON: show the text.
  }
  throw new ApiError(response.status, message || `status ${response.status}`);
}
