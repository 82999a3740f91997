import { describe, expect, test } from "vitest";
import { ConfigError, DataError } from "../../lib/errors.ts";
import { parseJson, type JsonObject } from "../../lib/text/python_json.ts";
import { ChatTemplate, type Message } from "../../lib/text/template.ts";

const user: Message = { role: "user", content: "Hi" };

function render(source: string, variables: string = "{}", messages: readonly Message[] = [user]): string {
  return new ChatTemplate(source).render(messages, { variables: parseJson(variables) as JsonObject, now: new Date(2025, 5, 15, 9, 5) });
}

// every expected text was made by jinja2 3.1.6
describe("Python's semantics", () => {
  test.each([
    ["{{ '\\n\\n  x \\n'.strip('\\n') }}", "  x "],
    ["{{ s|trim }}|", "\ufeffx|"],
    ["{{ none }}{{ true }}{{ 1.0 }}{{ 7 // 2 }}{{ -7 // 2 }}{{ 7 / 2 }}", "NoneTrue1.03-43.5"],
    ["{{ d|tojson }}", '{"b": 1.0, "10": [true, null], "2": "é"}'],
    ["{{ d|tojson(indent=1) }}", '{\n "b": 1.0,\n "10": [\n  true,\n  null\n ],\n "2": "é"\n}'],
    ["{{ e.items() is defined }}{{ e['items'] }}", "True5"],
    ["{{ [1] == [1.0] }}{{ {'a': 1} != {'a': 1} }}{{ 1 == '1' }}{{ true == 1 }}", "TrueFalseFalseTrue"],
    ["{{ 'a' ~ true ~ 1.0 ~ none }}{{ (1.0)|string }}{{ [1] + [2] == [1, 2] }}", "aTrue1.0None1.0True"],
    ["{% for i in [1, 2] %}{{ x is defined }}{% set x = i %}{% endfor %}", "FalseFalse"],
    ["{% for k, v in e.items() %}{% set k = k ~ '!' %}{{ k }}{{ v }}{% endfor %}", "items!5"],
    ["{{ e.items }}", "5"],
    ["{{ {'a': 1.0, 'b': [none, 'x\"', \"it's\"]} }}{{ [true]|trim }}", "{'a': 1.0, 'b': [None, 'x\"', \"it's\"]}[True]"],
    ["{{ '<{}|{{{}}}>'.format('a', 1) }}", "<a|{1}>"],
    ["{{ 'a👍b'|length }}{{ 'a👍b'[::-1] }}", "3b👍a"],
    ["{% set x = 1 %}{% for i in [1, 2] %}{% set x = i * 10 %}{% endfor %}{{ x }}", "1"],
    ["{% set ns = namespace(x=1) %}{% for i in [1, 2] %}{% set ns.x = i %}{% endfor %}{{ ns.x }}", "2"],
    ["{{ [3, 1, 2]|sort|join(',') }}{{ (1 != 2) == (3 != 3) }}", "1,2,3False"],
    ["{{ [none, true, 1.0, ['a']]|join(', ') }}|{{ 'ab'|join('-') }}|{{ []|join }}", "None, True, 1.0, ['a']|a-b|"],
    ["{{ strftime_now('%d %b %Y %H:%M %-d') }}", "15 Jun 2025 09:05 15"],
    ["{% macro m(a, b='z') %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(b=2, a=3) }}", "1z32"],
    ["{% for i in range(5) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "02"],
    ["  {% if true %}\n  x\n  {% endif %}\ny\n", "  x\ny"],
    ["{{ undefined_name }}{{ undefined_name is defined }}{{ undefined_name|default('d') }}", "Falsed"],
    ["{{ big }}{{ big + 1 }}", "1234567890123456789012345678901234567891"],
  ])("%s", (source, text) => {
    expect(
      render(
        source,
        '{"s": "\\u0085\\ufeffx\\u001c", "d": {"b": 1.0, "10": [true, null], "2": "é"}, "e": {"items": 5}, "big": 12345678901234567890}',
      ),
    ).toBe(text);
  });

  test.each([
    ["{{ 'a' + 1 }}", /cannot add integer to text/],
    ["{{ 'a' + messages[0] }}", /cannot add an object to text/],
    ["{{ '{0}'.format(1) }}", /format field \{0\} is not supported/],
    ["{{ '{}'.format() }}", /format field/],
    ["{{ range }}", /function cannot be printed/],
    ["{{ 'x' in none }}", /null/],
    ["{{ nothing.attribute }}", /something undefined/],
    ["{{ messages.append(1) }}", /a list has no method "append"/],
    ["{{ messages|magic }}", /Unknown ArrayValue filter: magic/],
    ["{{ messages is magic }}", /Unknown test: magic/],
    ["{{ nothing|tojson }}", /nothing is not JSON/],
    ["{{ e|tojson(colour=1) }}", /does not take "colour"/],
    ["{{ e|tojson(indent=100000000) }}", /takes indent of at most 64 characters, found 100000000/],
    [`{{ e|tojson(separators=[",", "${":".repeat(65)}"]) }}`, /takes separators of at most 64 characters, found 65/],
    ["{{ strftime_now('%Q') }}", /%Q is not supported/],
    ["{% macro r() %}{{ r() }}{% endmacro %}{{ r() }}", /nested too deeply|not a function/],
    ["{% for i in range(1000000) %}{% endfor %}", /more than 100000 values/],
  ])("%s is refused", (source, why) => {
    expect(() => render(source)).toThrow(why);
    expect(() => render(source)).toThrow(DataError);
  });

  test.each([
    "{% if %}",
    "{{ a",
    "{% include 'x' %}",
    "{{ 1 < 2 < 3 }}",
    "{% for i in [1, 2] %}{{ i }}{% if i == 1 %}{% continue %}{% endif %}{% endfor %}", // the library would drop what stands before
  ])("%s does not compile", (source) => {
    expect(() => new ChatTemplate(source)).toThrow(ConfigError);
  });

  test("the template's own refusal keeps its words", () => {
    expect.assertions(1);
    try {
      render("{{ raise_exception('roles must alternate') }}");
    } catch (error) {
      expect((error as DataError).where).toEqual({ rule: "template", key: "messages", kind: "raise", says: "roles must alternate" });
    }
  });
});

describe("messages in the form the template takes", () => {
  const renderChat = (source: string, messages: readonly Message[]): string => {
    const chat = new ChatTemplate(source);
    return chat.render(chat.adapt(messages));
  };
  const call = (args: JsonObject | string): Message => ({
    role: "assistant",
    content: null,
    tool_calls: [{ function: { name: "f", arguments: args } }],
  });

  test("null content becomes empty where None would be printed, and only there", () => {
    const messages = [user, call({ x: 1 })];
    expect(renderChat("{% for m in messages %}[{{ m.content }}]{% endfor %}", messages)).toBe("[Hi][]");
    expect(renderChat("{% for m in messages %}{{ m.content is none }}{% endfor %}", messages)).toBe("FalseTrue");
    expect(new ChatTemplate("{% for m in messages %}[{{ m.content }}]{% endfor %}").render(messages)).toBe("[Hi][None]");
  });

  test("tool arguments in the other form", () => {
    const text = "{% for m in messages %}{{ m.tool_calls[0].function.arguments + '' if m.tool_calls }}{% endfor %}";
    expect(renderChat(text, [call({ x: 1, y: "é" })])).toBe('{"x": 1, "y": "é"}');
    const object =
      "{% for m in messages %}{% for k, v in m.tool_calls[0].function.arguments.items() %}{{ k }}={{ v }}{% endfor %}{% endfor %}";
    expect(renderChat(object, [call('{"x": 1.0}')])).toBe("x=1.0");
    expect(() => renderChat(object, [call("not json")])).toThrow(/text has no method "items"/);
  });
});

// What would take hours or all memory is refused. Each of these did.
describe("a template that never ends", () => {
  const grow = (next: string, use = "ns.x", first = "[1]"): string =>
    `{% set ns = namespace(x=${first}) %}{% for i in range(60) %}{% set ns.x = ${next} %}{% endfor %}{{ ${use} }}`;
  test.each([
    [
      "loops within loops",
      "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
      /more than 2000000 steps/,
    ],
    ["text doubled", grow("ns.x + ns.x", "ns.x", "'ab'"), /a text longer than 16777216/],
    ["text doubled by ~", grow("ns.x ~ ns.x", "ns.x", "'ab'"), /a text longer than 16777216/],
    ["a list doubled", grow("ns.x + ns.x"), /a list longer than 1048576/],
    ["a list that holds one list twice, printed", grow("[ns.x, ns.x]"), /more than 2000000 steps/],
    ["… as JSON", grow("[ns.x, ns.x]", "ns.x|tojson"), /more than 2000000 steps/],
    ["… compared", grow("[ns.x, ns.x]", "ns.x == ns.x"), /more than 2000000 steps/],
    ["… joined", grow("[ns.x, ns.x]", "ns.x|join"), /more than 2000000 steps/],
    ["a macro that calls itself", "{% macro m(f, x) %}{{ f(f, x) }}{% endmacro %}{{ m(m, 1) }}", /nested too deeply/],
    ["a value within itself", "{{ x }}", /nested too deeply/],
  ])("%s", (_, source, message) => {
    const circle: JsonObject = {};
    circle["x"] = circle;
    const attempt = () => new ChatTemplate(source).render([user], { variables: source === "{{ x }}" ? { x: circle } : {} });
    expect(attempt).toThrow(DataError);
    expect(attempt).toThrow(message);
  });

  test("each rendering has its own count", () => {
    const template = new ChatTemplate("{% for i in range(99999) %}{% set a = i %}{% endfor %}done");
    for (let i = 0; i < 5; i++) expect(template.render([user])).toBe("done");
  });
});
