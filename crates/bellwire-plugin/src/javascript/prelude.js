// What a handler finds beside the language, and how a run goes on between its turns. Everything crosses the border as JSON text:
// `begin` starts a run, `settle` hands an answer from outside in, `take` hands out what has come up since the last turn. Only what is
// written to the console goes out at once, by `out`: one that is cut off is not asked any more.
((out) => {
  const { stringify, parse } = JSON;
  const { toWellFormed } = String.prototype;
  const CONSOLE_MAX = 16384;
  let run;

  const shown = (value) => {
    if (typeof value === 'string') return value;
    if (value instanceof Error) return `${value.name}: ${value.message}`;
    try {
      return stringify(value) ?? String(value);
    } catch {
      return String(value);
    }
  };
  const write = (prefix) => (...values) => {
    if (!run || run.written > CONSOLE_MAX) return;
    const line = prefix + values.map(shown).join(' ') + '\n';
    run.written += line.length;
    out(toWellFormed.call(line.slice(0, CONSOLE_MAX)));
  };
  const warn = write('warn: ');
  globalThis.console = { log: write(''), info: write(''), debug: write(''), warn, error: write('error: ') };

  class Headers {
    #all;
    constructor(all) { this.#all = all; }
    get(name) { return this.#all[String(name).toLowerCase()] ?? null; }
    has(name) { return String(name).toLowerCase() in this.#all; }
    entries() { return Object.entries(this.#all)[Symbol.iterator](); }
    [Symbol.iterator]() { return this.entries(); }
  }
  class Response {
    #body;
    constructor({ status, headers, body, truncated }) {
      this.status = status;
      this.ok = status >= 200 && status < 300;
      this.headers = new Headers(headers);
      this.truncated = truncated;
      this.#body = body;
    }
    async text() { return this.#body; }
    async json() { return parse(this.#body); }
  }
  globalThis.fetch = (url, init = {}) => new Promise((resolve, reject) => {
    if (!run || run.done) throw new Error('fetch outside of a handler');
    const headers = init.headers ?? {};
    const pairs = Object.entries(headers instanceof Headers ? Object.fromEntries(headers) : headers);
    const id = run.next++;
    run.waiting.set(id, { resolve, reject });
    run.calls.push({
      id,
      url: String(url),
      method: String(init.method ?? 'GET').toUpperCase(),
      headers: pairs.map(([name, value]) => [String(name), String(value)]),
      body: init.body === undefined || init.body === null ? '' : typeof init.body === 'string' ? init.body : stringify(init.body),
    });
  });

  // What a handler was not given, it is told so, and does not go on with nothing.
  const environment = (given) => new Proxy(given, {
    get(all, name) {
      if (typeof name === 'string' && name !== 'toJSON' && !(name in all)) {
        throw new Error(`the variable ${name} is not there: a module asks for it by a line // @permission environment ${name}, ` +
          'and gets it if that is granted and it is among the plugins.command_environment of the server');
      }
      return all[name];
    },
  });

  const context = (given, of) => {
    const say = (answer) => { of.answer = answer; return undefined; };
    return {
      ...given,
      environment: environment(given.environment),
      ack: () => say({ ack: null }),
      drop: (reason = '') => say({ drop: shown(reason) }),
      retry: (seconds, reason = '') => {
        // Also as `Retry-After` has them.
        const wait = seconds === undefined || seconds === null ? null : Number(seconds);
        if (wait !== null && !(wait >= 0 && wait < Infinity)) throw new TypeError('ctx.retry takes seconds');
        return say({ retry: { seconds: wait, reason: shown(reason) } });
      },
      fail: (reason = '') => say({ fail: shown(reason) }),
      respond: ({ status = 200, headers = {}, body = '' } = {}) => {
        if (!Number.isInteger(status)) throw new TypeError('ctx.respond takes a status from 200 to 599');
        const json = typeof body !== 'string';
        const all = Object.entries(headers).map(([name, value]) => [String(name), String(value)]);
        if (json && !all.some(([name]) => name.toLowerCase() === 'content-type')) all.push(['content-type', 'application/json']);
        return say({ respond: { status, headers: all, body: json ? stringify(body) ?? '' : body } });
      },
      emit: (type, payload = null, { channels = [] } = {}) => {
        if (!Array.isArray(channels)) throw new TypeError('ctx.emit takes channels as a list');
        of.emitted.push({ type: String(type), payload: stringify(payload) ?? 'null', channels: channels.map(String) });
      },
    };
  };

  const go = async (event, ctx, { filter, transform, handle }) => {
    if (filter && !(await filter(event, ctx))) return ctx.drop('the filter said no');
    if (transform) {
      event = await transform(event, ctx);
      if (typeof event !== 'object' || event === null) throw new TypeError('transform must return the event');
    }
    return handle(event, ctx);
  };

  const thrown = (error) => {
    try {
      return error instanceof Error
        ? { name: String(error.name), message: String(error.message), stack: String(error.stack ?? '') }
        : { name: '', message: `thrown: ${shown(error)}`, stack: '' };
    } catch {
      return { name: '', message: 'thrown: an error that throws when it is read', stack: '' };
    }
  };

  return {
    begin(input, functions) {
      const { event, given } = parse(input);
      const own = { written: 0, calls: [], waiting: new Map(), next: 1, emitted: [], answer: null, done: null };
      run = own;
      go(event, context(given, own), functions).then(
        (value) => {
          if (own.waiting.size > 0) warn('handle ended without waiting for a fetch, which was not made or cut off: it lacks an await');
          own.done = { value: value === undefined ? undefined : shown(value), answer: own.answer, emitted: own.emitted };
        },
        (error) => { own.done = { error: thrown(error) }; },
      );
    },
    settle(input) {
      const { id, response, error } = parse(input);
      const call = run.waiting.get(id);
      run.waiting.delete(id);
      if (error !== undefined) call.reject(new TypeError(error));
      else call.resolve(new Response(response));
    },
    take() {
      const { calls, waiting, done } = run;
      run.calls = [];
      return stringify({ calls, waiting: waiting.size, done });
    },
  };
})
