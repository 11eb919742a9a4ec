/**
 * The server, as functions: JSON in and out, streams of events, and errors in one line.
 *
 * Addresses are relative to the page, so the page also works behind a proxy that adds a prefix. The
 * API key is asked for at each call and kept nowhere here. No DOM.
 */

import { createSseParser } from "./sse.js";

/** An error of the server, or the lack of one. */
export class ApiError extends Error {
  /**
   * @param {string} message One line.
   * @param {number} status HTTP status; 0 when there was no answer.
   */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/**
 * @param {object} parts
 * @param {string} parts.base Address of the page.
 * @param {() => string} parts.getKey The API key; "" for none.
 * @param {typeof fetch} parts.fetch
 */
export function createApi({ base, getKey, fetch }) {
  /**
   * @param {string} method
   * @param {string} path Below the page, such as "v1/models".
   * @param {{json?: unknown, form?: FormData, signal?: AbortSignal}} [content]
   * @returns {Promise<Response>} An answer with a status below 400.
   */
  async function send(method, path, { json, form, signal } = {}) {
    /** @type {Record<string, string>} */
    const headers = {};
    if (getKey()) headers.Authorization = `Bearer ${getKey()}`;
    if (json !== undefined) headers["Content-Type"] = "application/json";
    const body = form ?? (json === undefined ? undefined : JSON.stringify(json));
    let response;
    try {
      response = await fetch(new URL(path, base).href, { method, headers, body, signal });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError("The server does not answer. Is it still running?", 0);
    }
    if (!response.ok) throw await errorOf(response);
    return response;
  }

  return {
    /** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
    get: async (path, signal) => (await send("GET", path, { signal })).json(),
    /** @param {string} path @param {unknown} json @param {AbortSignal} [signal] @returns {Promise<any>} */
    post: async (path, json, signal) => (await send("POST", path, { json, signal })).json(),
    /** @param {string} path @param {FormData} form @returns {Promise<any>} */
    upload: async (path, form) => (await send("POST", path, { form })).json(),
    /** @param {string} path @returns {Promise<any>} */
    remove: async path => (await send("DELETE", path)).json(),
    /**
     * Ask for a stream and give out its events until it ends.
     *
     * @param {string} path
     * @param {object} json
     * @param {(event: any) => void} onEvent
     * @param {AbortSignal} [signal]
     * @throws {ApiError} The request was refused, or the stream broke off.
     */
    async stream(path, json, onEvent, signal) {
      const response = await send("POST", path, { json: { ...json, stream: true }, signal });
      await readEvents(response, onEvent, signal);
    },
  };
}

/** @param {Response} response @param {(event: any) => void} onEvent @param {AbortSignal} [signal] */
async function readEvents(response, onEvent, signal) {
  let isDone = false;
  const parser = createSseParser(data => {
    if (data === "[DONE]") isDone = true;
    else onEvent(JSON.parse(data));
  });
  const decoder = new TextDecoder();
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError("The connection broke off in the middle of the answer.", 0);
    }
    if (part.done) break;
    parser.push(decoder.decode(part.value, { stream: true }));
  }
  if (!isDone) throw new ApiError("The answer ended before its end was told.", 0);
}

/** @param {Response} response @returns {Promise<ApiError>} */
async function errorOf(response) {
  let message = `The server answers ${response.status} ${response.statusText}.`;
  try {
    const body = await response.json();
    if (typeof body.message === "string") message = body.message;
  } catch {
    // A proxy's page; its status says enough.
  }
  if (response.status === 401) message += " Enter the API key under Settings.";
  return new ApiError(message, response.status);
}

/** @typedef {ReturnType<typeof createApi>} Api */
