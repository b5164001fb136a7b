// The list of requests, from openapi.json: what each takes, an example, and what it answers.

import { el } from "./dom.js";
import { call } from "./server.js";

const schemaOf = (api, schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema) || {};
const pretty = (value) => JSON.stringify(value, null, 2).replace(/\[[^[\]{}]*\]/g, (list) => list.replace(/\s+/g, " "));
const plain = (text) => (text || "").replaceAll("`", "");
const typeOf = (field) =>
  field.type ||
  (field.anyOf || [])
    .map((one) => one.type || "object")
    .filter((type) => type !== "null")
    .join(" or ");

const isFile = (field) => JSON.stringify(field).includes("octet-stream") || JSON.stringify(field).includes('"binary"');

function fieldsOf(api, request) {
  const rows = (request.parameters || []).map((one) => [
    one.name,
    one.in,
    typeOf(one.schema),
    one.description || "",
    one.required,
  ]);
  for (const [kind, { schema }] of Object.entries(request.requestBody?.content || {})) {
    const found = schemaOf(api, schema);
    const place = kind === "application/json" ? "JSON" : "form";
    for (const [name, field] of Object.entries(found.properties || {})) {
      rows.push([
        name,
        place,
        isFile(field) ? "file" : typeOf(field),
        field.description || "",
        (found.required || []).includes(name),
      ]);
    }
  }
  return rows;
}
function exampleOf(api, request, path) {
  const body = request.requestBody?.content || {};
  if (body["application/json"]) {
    const example = schemaOf(api, body["application/json"].schema).examples?.[0] || {};
    return `curl -s ${location.origin}${path} -H 'content-type: application/json' -d '${JSON.stringify(example)}'`;
  }
  if (Object.keys(body).length) {
    const first = Object.keys(schemaOf(api, Object.values(body)[0].schema).properties || {})[0];
    return `curl -s ${location.origin}${path} -F ${first}=@${first === "file" ? "recording.npz" : "photo.jpg"}`;
  }
  return `curl -s ${location.origin}${path}`;
}
function card(api, path, verb, request) {
  const rows = fieldsOf(api, request),
    answer = request.responses?.["200"]?.content?.["application/json"]?.example;
  return el(
    "section.card",
    {},
    el("h2", {}, el("span.verb", { text: verb.toUpperCase() }), ` ${path}`),
    el("p.lead", { text: plain(request.description || request.summary) }),
    rows.length
      ? el(
          "table",
          {},
          el(
            "tbody",
            {},
            rows.map(([name, place, type, told, needed]) =>
              el(
                "tr",
                {},
                el("th", { scope: "row" }, el("code", { text: name }), needed ? " *" : ""),
                el("td.hint", { text: `${place} ${type}` }),
                el("td", { text: told }),
              ),
            ),
          ),
        )
      : "",
    el("pre", {}, el("code", { text: exampleOf(api, request, path) })),
    answer ? el("pre", {}, el("code", { text: pretty(answer) })) : "",
  );
}
async function start() {
  const place = document.getElementById("requests");
  try {
    const api = await call("/openapi.json");
    document.getElementById("about").textContent =
      `${api.info.title} ${api.info.version}. ${plain(api.info.description)}`;
    place.replaceChildren(
      ...Object.entries(api.paths).flatMap(([path, verbs]) =>
        Object.entries(verbs).map(([verb, request]) => card(api, path, verb, request)),
      ),
    );
  } catch (error) {
    place.replaceChildren(el("p.notice.bad", { text: error.message }));
  }
}
start();
