"use strict";
// Draws /openapi.json as a page. No library and no outside address: what is shown is what this server sends.

const make = (tag, text, attributes = {}) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

const resolve = (document_, schema) => {
  if (!schema || !schema.$ref) return schema ?? {};
  return schema.$ref.split("/").slice(1).reduce((at, key) => at[key], document_);
};

const kindOf = (document_, schema) => {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const branches = schema.anyOf ?? schema.oneOf;
  if (branches) {
    const kinds = branches.map((branch) => kindOf(document_, branch)).filter((kind) => kind !== "null");
    return [...new Set(kinds)].join(" | ");
  }
  if (schema.type === "array") return `[${kindOf(document_, schema.items ?? {})}]`;
  const limits = [];
  if (schema.minimum !== undefined) limits.push(`≥ ${schema.minimum}`);
  if (schema.maximum !== undefined) limits.push(`≤ ${schema.maximum}`);
  return [schema.type ?? "any", ...limits].join(" ");
};

const fieldsTable = (document_, schema) => {
  const table = make("table");
  const head = make("tr");
  for (const title of ["Field", "Type", "What it is"]) head.append(make("th", title));
  table.append(head);
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const row = make("tr");
    const cell = make("td");
    cell.append(make("code", name));
    if ((schema.required ?? []).includes(name)) cell.append(make("span", " required", { class: "required" }));
    row.append(cell, make("td", kindOf(document_, field)));
    const standard = field.default === undefined || field.default === null ? "" : ` Default: ${JSON.stringify(field.default)}.`;
    row.append(make("td", `${field.description ?? ""}${standard}`.trim()));
    table.append(row);
  }
  return table;
};

const exampleFor = (method, path) => {
  const url = `${location.origin}${path}`;
  if (path === "/v1/chat/completions") {
    const body = { model: "default", messages: [{ role: "user", content: "Say hello." }], stream: true };
    return `curl ${url} -H 'Content-Type: application/json' \\\n  -d '${JSON.stringify(body)}'`;
  }
  return method === "get" ? `curl ${url}` : `curl -X ${method.toUpperCase()} ${url} -H 'Content-Type: application/json' -d '{}'`;
};

const drawRoute = (document_, path, method, route) => {
  const id = `${method}${path}`.replace(/[^a-z0-9]+/gi, "-");
  const section = make("section", undefined, { id });
  const title = make("h2");
  title.append(make("span", method.toUpperCase(), { class: "method" }), make("span", path, { class: "path" }));
  section.append(title, make("p", route.description ?? route.summary ?? ""));
  for (const parameter of route.parameters ?? []) {
    section.append(make("p", `${parameter.in}: ${parameter.name} (${kindOf(document_, parameter.schema ?? {})})`));
  }
  const body = route.requestBody?.content?.["application/json"]?.schema;
  if (body) {
    const first = body.anyOf ? body.anyOf.find((branch) => branch.$ref) ?? body : body;
    const schema = resolve(document_, first);
    if (schema.description) section.append(make("p", schema.description));
    section.append(fieldsTable(document_, schema));
  }
  const details = make("details");
  details.append(make("summary", "Example"), make("pre", exampleFor(method, path)));
  section.append(details);
  return [id, section];
};

const draw = (document_) => {
  document.getElementById("summary").textContent = `${document_.info.summary} Version ${document_.info.version}.`;
  const contents = document.getElementById("contents");
  const routes = document.getElementById("routes");
  routes.replaceChildren();
  for (const [path, methods] of Object.entries(document_.paths).sort(([a], [b]) => a.localeCompare(b))) {
    for (const [method, route] of Object.entries(methods)) {
      const [id, section] = drawRoute(document_, path, method, route);
      contents.append(make("a", `${method.toUpperCase()} ${path}`, { href: `#${id}` }));
      routes.append(section);
    }
  }
};

fetch("/openapi.json")
  .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(`status ${answer.status}`))))
  .then(draw)
  .catch((error) => {
    document.getElementById("routes").textContent = `The description could not be read: ${error.message}`;
  });
