"use strict";
// The report's script: colour scheme, table of contents, and the explorer of cases. Text from data or a model is only
// set as text. The address contains the state of the explorer, so that a link shows the same view.
(() => {
  const root = document.documentElement;
  const PAGE = 50; // cases shown at a time
  const WORDS = 400; // words of a response that are compared with another's
  const VERDICTS = ["right", "wrong", "called", "called and right", "called and wrong", "answered",
    "answered and right", "answered and wrong", "malformed"];
  const SORTS = { "": "most telling first", data: "as in the data", wrong: "most often wrong first", question: "by question" };

  /** An element; children are elements or text. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child != null && child !== ""));
    return element;
  }

  // ---- light and dark ------------------------------------------------------------------------------------------

  const THEMES = ["automatic", "light", "dark"];
  let theme = THEMES[0];
  try { theme = localStorage.getItem("trice-theme") ?? theme; } catch { /* without storage the choice is valid for this page only */ }

  function dress() {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  }

  function themeButton() {
    const button = document.getElementById("theme");
    const show = () => { button.textContent = `Colours: ${THEMES.includes(theme) ? theme : THEMES[0]}`; };
    button.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      try { localStorage.setItem("trice-theme", theme); } catch { /* as above */ }
      dress();
      show();
    });
    show();
    button.hidden = false;
  }

  // ---- contents and scrolling ----------------------------------------------------------------------------------

  function contents() {
    const links = new Map([...document.querySelectorAll(".contents a")].map((a) => [a.hash.slice(1), a]));
    const parts = [...links.keys()].map((id) => document.getElementById(id));
    const mark = () => {
      const here = parts.findLast((part) => part.getBoundingClientRect().top < innerHeight / 3) ?? parts[0];
      for (const [id, link] of links) {
        if (id === here.id) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    };
    addEventListener("scroll", mark, { passive: true });
    mark();
  }

  /** Only boxes that can be scrolled are reached with the Tab key. */
  function stops() {
    for (const box of document.querySelectorAll(".scroll, pre, .answer dd")) {
      const scrolls = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }

  // ---- text ----------------------------------------------------------------------------------------------------

  /** Text with the searched words marked. */
  function marked(text, words) {
    if (!words.length) return [text];
    const escaped = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    return text.split(new RegExp(`(${escaped.join("|")})`, "giu"))
      .map((part, place) => (place % 2 ? make("mark", { class: "hit" }, part) : part));
  }

  /** Text in which the words that differ from another text are marked (longest common subsequence). Nothing is marked
      if less than a third is common, since that is another response and not a changed one. */
  function compared(before, text, words) {
    const [a, b] = [before, text].map((one) => one.match(/\w+|\s+|[^\w\s]/gu) ?? []);
    if (before === text || a.length > WORDS || b.length > WORDS) return marked(text, words);
    const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
      }
    }
    if (3 * length[0][0] < b.length) return marked(text, words);
    const parts = [];
    for (let i = 0, j = 0; j < b.length;) {
      const kept = i < a.length && a[i] === b[j];
      if (!kept && i < a.length && length[i + 1][j] >= length[i][j + 1]) { i++; continue; }
      if (parts.at(-1)?.kept === kept) parts.at(-1).text += b[j];
      else parts.push({ kept, text: b[j] });
      if (kept) i++;
      j++;
    }
    return parts.flatMap((part) => {
      const pieces = marked(part.text, words);
      return part.kept || !part.text.trim() ? pieces : [make("mark", { class: "new" }, ...pieces)];
    });
  }

  // ---- the address ---------------------------------------------------------------------------------------------

  const slug = (name) => name.replaceAll(" ", "-");
  const EMPTY = () => ({ search: "", kinds: [], dataset: "", needed: "", sort: "", verdicts: {}, open: "" });

  function decoded(text) {
    try { return decodeURIComponent(text); } catch { return text; }
  }

  /** `search=…&kind=…,…&dataset=…&needed=…&sort=…&verdict.<condition>=…&case=<dataset>/<id>`, each part encoded. */
  function written(state) {
    const parts = [["search", state.search], ["kind", state.kinds.join(",")], ["dataset", state.dataset],
      ["needed", state.needed], ["sort", state.sort],
      ...Object.entries(state.verdicts).map(([condition, value]) => [`verdict.${encodeURIComponent(condition)}`, value])];
    const texts = parts.filter(([, value]) => value).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
    return [...texts, ...(state.open ? [`case=${state.open}`] : [])].join("&");
  }

  function read(hash) {
    const state = EMPTY();
    for (const part of hash.replace(/^#/, "").split("&")) {
      const [name, value] = [part.split("=", 1)[0], part.slice(part.indexOf("=") + 1)];
      if (name === "case") state.open = value.split("/").map((one) => encodeURIComponent(decoded(one))).join("/");
      else if (name === "kind") state.kinds = decoded(value).split(",");
      else if (name.startsWith("verdict.")) state.verdicts[decoded(name.slice(8))] = decoded(value);
      else if (["search", "dataset", "needed", "sort"].includes(name)) state[name] = decoded(value);
    }
    return state;
  }

  // ---- the cases -----------------------------------------------------------------------------------------------

  function cases(data, box) {
    const { conditions, kinds, texts } = data;
    const columns = data.stages.length ? data.stages : conditions.map((_, place) => place).slice(0, 4);
    const all = data.cases.map((one, place) => ({
      ...one, place,
      key: `${encodeURIComponent(texts[one.dataset])}/${encodeURIComponent(texts[one.id])}`,
      wrong: one.responses.filter((row) => row && !row.right).length,
    }));
    // The first order: a case of each combination of kinds in each data set, then a second of each, and so on.
    const turns = new Map();
    for (const one of all) {
      const sort = JSON.stringify([one.dataset, one.changes]);
      turns.set(sort, (turns.get(sort) ?? 0) + 1);
      one.turn = one.changes.length ? turns.get(sort) : Infinity;
    }
    const byKey = new Map(all.map((one) => [one.key, one]));
    const datasets = [...new Set(all.map((one) => texts[one.dataset]))];
    let state = EMPTY(), list = [], shown = PAGE, opened = new Set(), words = [];

    // The searched texts: the question, its gold answers, every response, and the results of its call.
    function haystack(one) {
      one.hay ??= [texts[one.dataset], texts[one.id], texts[one.input], ...one.gold.map((n) => texts[n]),
        ...one.responses.filter(Boolean).flatMap((row) => [row.response, row.output, row.error, row.read,
          ...(row.turns ?? [])].filter((n) => n !== undefined).map((n) => texts[n]))].join("\n").toLowerCase();
      return one.hay;
    }

    function fits(row, wanted) {
      const [outcome, verdict] = wanted === "right" || wanted === "wrong" ? ["", wanted] : wanted.split(" and ");
      return row && (!outcome || row.outcome === outcome) && (!verdict || row.right === (verdict === "right"));
    }

    function found() {
      const wanted = state.kinds.map((name) => kinds.findIndex((kind) => slug(kind.name) === name));
      const verdicts = Object.entries(state.verdicts).map(([name, value]) => [conditions.indexOf(name), value]);
      const needed = { __proto__: null, yes: true, no: false }[state.needed];
      const fit = all.filter((one) =>
        (!wanted.length || one.changes.some(([kind]) => wanted.includes(kind))) &&
        (!state.dataset || texts[one.dataset] === state.dataset) &&
        (needed === undefined || one.needed === needed) &&
        verdicts.every(([place, value]) => fits(one.responses[place], value)) &&
        words.every((word) => haystack(one).includes(word)));
      const orders = {
        __proto__: null,
        "": (a, b) => (a.turn === b.turn ? 0 : a.turn - b.turn),
        wrong: (a, b) => b.wrong - a.wrong,
        question: (a, b) => texts[a.asked].localeCompare(texts[b.asked]),
      };
      return orders[state.sort] ? fit.sort((a, b) => orders[state.sort](a, b) || a.place - b.place) : fit;
    }

    // -- one case

    const verdict = (row, condition) => row
      ? make("span", { class: `verdict ${row.right ? "right" : "wrong"}`, "data-condition": condition },
        make("b", {}, row.right ? "✓" : "✗"), make("span", { class: "hidden-text" }, row.right ? "right, " : "wrong, "),
        make("span", { class: "how" }, row.outcome))
      : "–";

    function tags(one) {
      const names = [...new Set(one.changes.map(([kind]) => kinds[kind].name))];
      return make("ul", { class: "tags" }, ...names.map((name) => make("li", { class: name === "new error" && "error" }, name)));
    }

    function answer(one, place) {
      const row = one.responses[place];
      // A stage is compared with the stage before it in the same run. With several runs, names begin with "run/".
      const runOf = (n) => conditions[n].slice(0, conditions[n].lastIndexOf("/") + 1);
      const before = data.stages.slice(0, Math.max(data.stages.indexOf(place), 0))
        .filter((n) => runOf(n) === runOf(place)).map((n) => one.responses[n]).filter(Boolean).at(-1);
      const text = (name) => {
        const now = texts[row[name]];
        const then = before && texts[before[name]];
        return then === undefined ? marked(now, words) : compared(then, now, words);
      };
      const part = (label, name, code) => row[name] === undefined ? []
        : [make("div", {}, make("dt", {}, label), make("dd", { class: code && "code" }, ...text(name)))];
      const turns = row.turns && make("div", {}, make("dt", {}, "asked again with the output, the model says"),
        make("dd", {}, make("ol", {}, ...row.turns.map((n) => make("li", {}, ...marked(texts[n], words))))));
      return make("section", { class: `answer ${row.right ? "right" : "wrong"}` },
        make("h3", {}, conditions[place], verdict(row)),
        make("dl", {}, ...part(row.outcome === "called" ? "response, with the call" : "response", "response", true),
          ...part("read as the call", "call", true), ...part("malformed, because", "reason"),
          ...part("the tool gave", "output"), ...part("the tool failed", "error"), turns, ...part("read as the answer", "read")));
    }

    function whole(one) {
      const order = [...data.stages, ...conditions.map((_, n) => n).filter((n) => !data.stages.includes(n))];
      const said = one.changes.map(([kind, before, after]) => `${kinds[kind].name} (${conditions[before]} → ${conditions[after]})`);
      const needed = { true: "The base model is wrong without a tool: needed.", false: "The base model is right without a tool: not needed." };
      const answers = make("div", { class: "answers" }, ...order.filter((n) => one.responses[n]).map((n) => answer(one, n)));
      return make("div", { class: "whole" },
        make("p", { class: "question" }, ...marked(texts[one.input], words)),
        make("p", { class: "facts" }, "Gold: ", make("b", {}, one.gold.map((n) => texts[n]).join(" · ")), `. ${needed[one.needed] ?? ""}`),
        said.length ? make("p", { class: "facts" }, "Here: ", make("b", {}, said.join(", ")), ".") : "",
        answers,
        make("p", { class: "note" }, make("a", { href: `#case=${one.key}` }, "Link to this case"), ` · ${texts[one.id]}`,
          answers.querySelector(".new") ? make("span", {}, " · ", make("mark", { class: "new" }, "marked"), ": other than in the stage before") : ""));
    }

    const drawn = new Map(); // key → its row, and the row with its details
    function rows(one, place) {
      const id = `case-${one.place}`;
      const button = make("button", { type: "button", class: "open", "aria-expanded": "false", "aria-controls": id, click: () => toggle(one) },
        make("span", { class: "asked" }, ...marked(texts[one.asked], words)));
      const row = make("tr", { class: "case" }, make("th", { scope: "row" }, button),
        make("td", {}, make("span", { class: "source" }, texts[one.dataset])),
        ...columns.map((n) => make("td", {}, verdict(one.responses[n], conditions[n]))), make("td", {}, tags(one)));
      const cell = make("td", { colspan: columns.length + 3 });
      const below = make("tr", { class: "opened", id, hidden: true }, cell);
      drawn.set(one.key, { row, below, cell, button });
      if (opened.has(one.key)) unfold(one, true);
      return [row, below];
    }

    function unfold(one, open) {
      const { row, below, cell, button } = drawn.get(one.key);
      if (open && !cell.childElementCount) cell.append(whole(one));
      row.classList.toggle("shown", open);
      button.setAttribute("aria-expanded", String(open));
      below.hidden = !open;
      if (below.isConnected) stops();
    }

    function toggle(one) {
      const open = !opened.has(one.key);
      opened[open ? "add" : "delete"](one.key);
      unfold(one, open);
      state.open = open ? one.key : "";
      remember(true);
    }

    // -- all of them

    const count = make("p", { role: "status", "aria-live": "polite" });
    const reset = make("button", { type: "button", class: "plain", click: () => change(EMPTY()) }, "Clear all filters");
    const body = make("tbody");
    const more = make("button", { type: "button", class: "more", click: () => {
      const next = list[shown];
      shown += PAGE;
      extend();
      drawn.get(next.key).button.focus();
    } });

    function extend() {
      for (const one of list.slice(drawn.size, shown)) body.append(...rows(one));
      more.hidden = shown >= list.length;
      more.textContent = `Show ${Math.min(PAGE, list.length - shown)} more`;
    }

    /** Draw the list. A linked case that is not in the first page comes first. */
    function draw(linked) {
      words = [...new Set(state.search.toLowerCase().split(/\s+/).filter(Boolean))];
      list = found();
      const fit = list.length;
      shown = PAGE;
      if (linked && !list.slice(0, shown).includes(linked)) list = [linked, ...list.filter((one) => one !== linked)];
      drawn.clear();
      body.replaceChildren();
      extend();
      const total = all.length.toLocaleString("en");
      count.textContent = fit === all.length ? `${total} cases` : `${fit.toLocaleString("en")} of ${total} cases`;
      if (state.open && !byKey.has(state.open)) count.textContent += `. The linked case is not in this page: ${decoded(state.open)}`;
      reset.hidden = fit === all.length && !state.search;
    }

    // -- filters

    const input = make("input", { type: "search", id: "case-search", placeholder: "in questions, answers and responses",
      autocomplete: "off", spellcheck: "false", maxlength: "200" });
    let waiting = 0;
    input.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => change({ ...state, search: input.value.trim(), open: "" }, false), 150);
    });
    const chips = kinds.map((kind, place) => {
      const total = all.filter((one) => one.changes.some(([n]) => n === place)).length;
      const name = slug(kind.name);
      return make("button", { type: "button", class: "chip", "data-kind": name, title: kind.about, disabled: !total, click: () => {
        const on = state.kinds.includes(name);
        change({ ...state, open: "", kinds: on ? state.kinds.filter((n) => n !== name) : [...state.kinds, name] });
      } }, `${kind.name} `, make("b", {}, total.toLocaleString("en")));
    });
    const selects = [];
    function choice(label, options, get, set) {
      const select = make("select", { change: () => change(set(select.value)) },
        ...Object.entries(options).map(([value, text]) => make("option", { value }, text)));
      selects.push(() => {
        select.value = get();
        if (select.selectedIndex < 0) select.value = "";
        select.classList.toggle("active", select.value !== "");
      });
      select.id = `case-filter-${selects.length}`;
      return make("div", { class: "choice" }, make("label", { for: select.id }, label), select);
    }
    const simple = (label, name, options) =>
      choice(label, options, () => state[name], (value) => ({ ...state, open: "", [name]: value }));
    const each = (name) => choice(name, { "": "any", ...Object.fromEntries(VERDICTS.map((one) => [one, one])) },
      () => state.verdicts[name] ?? "", (value) => {
        const { [name]: _, ...others } = state.verdicts;
        return { ...state, open: "", verdicts: value ? { ...others, [name]: value } : others };
      });

    function form() {
      const rest = conditions.filter((_, place) => !columns.includes(place));
      return make("div", { class: "filters", role: "search", "aria-label": "Cases" },
        make("div", { class: "choice" }, make("label", { for: "case-search" }, "Search"), input),
        make("fieldset", { "aria-label": "Kinds" }, ...chips),
        make("fieldset", { class: "choices", "aria-label": "Filters and order" },
          datasets.length > 1 ? simple("data set", "dataset", { "": "all", ...Object.fromEntries(datasets.map((name) => [name, name])) }) : "",
          simple("tool needed", "needed", { "": "any", yes: "needed", no: "not needed" }),
          ...columns.map((place) => each(conditions[place]))),
        rest.length ? make("details", {}, make("summary", {}, "Other conditions"),
          make("fieldset", { class: "choices", "aria-label": "Other conditions" }, ...rest.map((name) => each(name)))) : "",
        make("details", {}, make("summary", {}, "What the kinds mean"), make("dl", {}, ...kinds.map((kind) =>
          make("div", {}, make("dt", {}, kind.name), ": ", make("dd", {}, `${kind.about}.`))))));
    }

    function remember(push) {
      const address = `#${written(state) || box.parentElement.id}`;
      if (address === location.hash) return;
      try { history[push ? "pushState" : "replaceState"](null, "", address); } catch { /* some viewers forbid it */ }
    }

    function change(next, push = true) {
      state = next;
      opened = new Set(state.open ? [state.open] : []);
      remember(push);
      show();
    }

    function show(linked) {
      if (document.activeElement !== input) input.value = state.search;
      for (const chip of chips) chip.setAttribute("aria-pressed", String(state.kinds.includes(chip.dataset.kind)));
      selects.forEach((update) => update());
      draw(linked);
    }

    /** Whether the address names another part of the page. */
    const elsewhere = () => location.hash && !location.hash.includes("=") && location.hash.slice(1) !== box.parentElement.id;

    /** Show the state in the address. */
    function follow() {
      state = read(location.hash);
      opened = new Set(state.open ? [state.open] : []);
      const linked = byKey.get(state.open);
      input.value = state.search;
      show(linked);
      if (linked) {
        const { row, button } = drawn.get(linked.key);
        row.scrollIntoView();
        button.focus({ preventScroll: true });
      } else if (location.hash.includes("=")) box.parentElement.scrollIntoView();
    }

    const head = [["Question"], ["Data set", "about-data"], ...columns.map((n) => [conditions[n], "about-verdict"]), ["Kinds", "about-kinds"]];
    box.append(form(), make("div", { class: "state" }, count, reset, simple("order", "sort", SORTS)),
      data.left_out ? make("p", { class: "note" }, `${data.left_out.toLocaleString("en")} more cases are left out of this page, to keep it small.`) : "",
      make("div", { class: columns.length > 4 ? "scroll" : "" }, make("table", { class: `cases${columns.length > 4 ? " wide" : ""}` }, make("caption", { class: "hidden-text" }, "Questions, with the verdict of each stage"),
        make("thead", {}, make("tr", {}, ...head.map(([name, kind]) => make("th", { scope: "col", class: kind }, name)))), body)), more);
    box.hidden = false;
    addEventListener("hashchange", () => elsewhere() || follow());
    if (elsewhere()) show();
    else follow();
  }

  dress();
  document.addEventListener("DOMContentLoaded", () => {
    themeButton();
    contents();
    const island = document.getElementById("cases-data");
    if (island) {
      root.classList.add("js");
      cases(JSON.parse(island.textContent), document.getElementById("explorer"));
    }
    stops();
    addEventListener("resize", stops);
  });
})();
