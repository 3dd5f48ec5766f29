// The episode browser: filters, counts, pages, pairs and videos of all rows, with its state in the address.
(() => {
  const PAGE = 50;

  // --- the data -----------------------------------------------------------------------------------------------------

  const data = JSON.parse(document.getElementById("episode-data").textContent);
  const { lines, tasks, failures, videos, columns } = data;
  const count = columns.line.length;
  const nameOf = new Map(lines.map((line, i) => [line.name, i]));
  const searchable = (i) => {
    const line = lines[columns.line[i]], task = tasks[columns.task[i]], failure = columns.failure[i];
    const words = failure === null ? "" : failures[failure];
    return [line.label, task[0], task[1], words, columns.episode[i], columns.start[i]].join(" ").toLowerCase();
  };
  const controlName = (control) => control === "" ? "none" : control;

  // Each filter: its label, what it says of a row (as in the link), and how a value is printed.
  const FILTERS = new Map([
    ["recipe", ["Arm", (i) => lines[columns.line[i]].recipe, (v) => lines.find((x) => x.recipe === v).recipe_label]],
    ["arm", ["Policy", (i) => lines[columns.line[i]].arm, (v) => lines.find((x) => x.arm === v).plain]],
    ["seed", ["Training seed", (i) => text(lines[columns.line[i]].seed), (v) => v]],
    ["control", ["Control", (i) => lines[columns.line[i]].control ?? "", controlName]],
    ["task", ["Task", (i) => tasks[columns.task[i]][0], (v) => v]],
    ["outcome", ["Outcome", (i) => columns.success[i] ? "success" : "failure", (v) => v]],
    ["failure", ["Failure", (i) => columns.failure[i] === null ? null : failures[columns.failure[i]], (v) => v]],
    ["video", ["Video", (i) => columns.video[i] === null ? "without" : "with", (v) => v]],
  ]);
  const inARow = columns.completed.some((value) => value !== null);
  const PAIRS = new Map(inARow ? [
    ["only", "this got further"], ["other", "the other got further"], ["both", "both succeeded"], ["neither", "equally far"],
  ] : [
    ["only", "only this succeeded"], ["other", "only the other succeeded"],
    ["both", "both succeeded"], ["neither", "neither succeeded"],
  ]);
  // Each column: its head, the text of a row, what it is sorted by, and whether it holds numbers.
  const COLUMNS = new Map([
    ["policy", ["Policy", (i) => lines[columns.line[i]].label, (i) => columns.line[i], false]],
    ["task", ["Task", (i) => tasks[columns.task[i]][0], (i) => columns.task[i], false]],
    ["episode", ["Episode", (i) => columns.episode[i], (i) => columns.episode[i], true]],
    ["outcome", ["Outcome", (i) => outcome(columns.success[i]), (i) => columns.success[i], false]],
    ["other", ["Other", (i) => outcome(columns.success[other(i)]), (i) => columns.success[other(i)], false]],
    ["completed", ["In a row", (i) => dash(columns.completed[i]), (i) => columns.completed[i] ?? -1, true]],
    ["steps", ["Steps", (i) => columns.steps[i], (i) => columns.steps[i], true]],
    ["first", ["First success", (i) => dash(columns.first[i]), (i) => columns.first[i] ?? Infinity, true]],
    ["failure", ["Failure", (i) => failures[columns.failure[i]] ?? "", (i) => columns.failure[i] ?? -1, false]],
    ["start", ["Start seed", (i) => columns.start[i], (i) => Number(columns.start[i]), true]],
    ["video", ["Video", (i) => columns.video[i] === null ? "" : "▶", (i) => columns.video[i] === null, false]],
  ]);

  function text(value) { return value === null ? null : String(value); }
  function dash(value) { return value === null ? "–" : value; }
  function outcome(success) { return success ? "✓ success" : "✗ failure"; }

  // --- the state, which stands in the address -----------------------------------------------------------------------

  let state = new Map(), partner = new Map(), memory = null;

  function read() {
    state = new Map();
    const wanted = new URLSearchParams(location.hash.slice("#episodes?".length));
    for (const [key, value] of wanted) {
      if (FILTERS.has(key) || ["text", "against", "pair", "sort", "page"].includes(key)) state.set(key, value);
    }
  }

  function write() {
    const query = [...state].map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join("&");
    history.replaceState(null, "", query ? `#episodes?${query}` : "#episodes");
  }

  function set(key, value) {
    if (value === null) state.delete(key); else state.set(key, value);
    if (key !== "page") state.delete("page");
    if (key === "against" && value === null) state.delete("pair");
    write();
    render();
  }

  // The row of the other policy with the same task and episode, or -1.
  function other(i) { return partner.get(`${columns.task[i]} ${columns.episode[i]}`) ?? -1; }

  function pair(i) {
    const j = other(i);
    if (j < 0) return null;
    const reached = inARow ? columns.completed : columns.success;
    if (reached[i] !== reached[j]) return reached[i] > reached[j] ? "only" : "other";
    return columns.success[i] ? "both" : "neither";
  }

  function selected() {
    const key = JSON.stringify([...state].filter(([name]) => name !== "page"));
    if (memory && memory.key === key) return memory.rows;
    partner = new Map();
    if (state.has("against")) {
      const line = nameOf.get(state.get("against")) ?? -1;
      for (let i = 0; i < count; i++) {
        if (columns.line[i] === line) partner.set(`${columns.task[i]} ${columns.episode[i]}`, i);
      }
    }
    const used = [...FILTERS].filter(([name]) => state.has(name));
    const tests = used.map(([name, [, of]]) => (i) => of(i) === state.get(name));
    if (state.has("against")) tests.push((i) => pair(i) !== null);
    if (state.has("pair")) tests.push((i) => pair(i) === state.get("pair"));
    const words = (state.get("text") ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) tests.push((i) => ((all) => words.every((word) => all.includes(word)))(searchable(i)));
    const rows = [];
    for (let i = 0; i < count; i++) if (tests.every((test) => test(i))) rows.push(i);
    const sort = state.get("sort") ?? "", down = sort.startsWith("-"), column = COLUMNS.get(sort.replace(/^-/, ""));
    if (column) rows.sort((a, b) => (down ? -1 : 1) * (column[2](a) - column[2](b)) || a - b);
    memory = { key, rows };
    return rows;
  }

  // --- the page -----------------------------------------------------------------------------------------------------

  const root = document.getElementById("browser");
  const controls = element("div", null, "filters"), pager = element("p", null, "pager");
  const told = element("p", null, "count");
  const scroll = element("div", null, "scroll"), table = element("table", null, "episodes");
  told.setAttribute("aria-live", "polite");
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Episodes");
  scroll.append(table);
  root.append(controls, told, scroll, pager);
  root.hidden = false;

  const inputs = new Map();
  function select(key, label, options) {
    const box = element("label", `${label} `), input = element("select");
    const any = element("option", "any");
    any.value = "0";
    input.append(any);
    options.forEach(([, shown], i) => {
      const option = element("option", shown);
      option.value = String(i + 1);
      input.append(option);
    });
    input.addEventListener("change", () => set(key, input.value === "0" ? null : options[Number(input.value) - 1][0]));
    box.append(input);
    controls.append(box);
    inputs.set(key, [input, options, box]);
  }

  for (const [key, [label, of, print]] of FILTERS) {
    const values = new Set();
    for (let i = 0; i < count; i++) values.add(of(i));
    values.delete(null);
    const many = key === "recipe" ? new Set(lines.map((line) => line.arm)).size > values.size : true;
    if (values.size > 1 && many) select(key, label, [...values].map((value) => [value, print(value)]));
  }
  if (lines.length > 1) select("against", "Paired with", lines.map((line) => [line.name, line.label]));
  select("pair", "Pairs", [...PAIRS]);
  const searchBox = element("label", "Text "), search = element("input");
  search.type = "search";
  search.addEventListener("input", () => set("text", search.value === "" ? null : search.value));
  searchBox.append(search);
  const clear = element("button", "Show all");
  clear.type = "button";
  clear.addEventListener("click", () => { state = new Map(); write(); render(); });
  controls.append(searchBox, clear);

  function showState() {
    for (const [key, [input, options, box]] of inputs) {
      const at = state.has(key) ? options.findIndex(([value]) => value === state.get(key)) : -1;
      while (input.options.length > options.length + 1) input.lastChild.remove();
      if (state.has(key) && at < 0) {  // from a link to something that this study does not have
        const option = element("option", state.get(key));
        option.value = "unknown";
        input.append(option);
        input.value = "unknown";
      } else input.value = String(at + 1);
      if (key === "pair") box.hidden = !state.has("against");
    }
    if (search.value !== (state.get("text") ?? "")) search.value = state.get("text") ?? "";
  }

  function percent(part, whole) { return `${(100 * part / whole).toFixed(1)}%`; }

  function summary(rows) {
    if (!rows.length) return "No episode fits these filters.";
    const good = rows.filter((i) => columns.success[i]).length;
    const parts = [`${good} of ${rows.length} episodes succeeded: ${percent(good, rows.length)}.`];
    const perTask = new Map();
    for (const i of rows) {
      const sums = perTask.get(columns.task[i]) ?? [0, 0];
      perTask.set(columns.task[i], [sums[0] + columns.success[i], sums[1] + 1]);
    }
    if (new Set([...perTask.values()].map(([, n]) => n)).size > 1) {
      const rates = [...perTask.values()].map(([k, n]) => k / n);
      parts.push(`Mean of ${rates.length} tasks: ${percent(rates.reduce((a, b) => a + b), rates.length)}.`);
    }
    const chains = rows.filter((i) => columns.completed[i] !== null);
    if (chains.length) {
      const mean = chains.reduce((sum, i) => sum + columns.completed[i], 0) / chains.length;
      const longest = Math.max(...chains.map((i) => columns.completed[i]));
      const steps = Array.from({length: longest}, (_, k) => k + 1);
      const reached = steps.map((k) => `${k}: ${chains.filter((i) => columns.completed[i] >= k).length}`);
      parts.push(`Subtasks in a row: ${mean.toFixed(2)} on average${longest ? `; at least ${reached.join(", ")}` : ""}.`);
    }
    if (state.has("against")) {
      const ends = new Map([...PAIRS.keys()].map((key) => [key, 0]));
      for (const i of rows) ends.set(pair(i), ends.get(pair(i)) + 1);
      const line = lines[nameOf.get(state.get("against"))];
      parts.push(`Paired with ${line.label}: ${[...ends].map(([key, n]) => `${PAIRS.get(key)} ${n}`).join(", ")}.`);
    }
    return parts.join(" ");
  }

  function head(shown) {
    const made = element("thead"), row = element("tr");
    const sort = state.get("sort") ?? "";
    for (const [key, [label, , , number]] of shown) {
      const cell = element("th", null, number ? "num" : ""), button = element("button", label);
      const now = sort === key ? "ascending" : sort === `-${key}` ? "descending" : "none";
      button.type = "button";
      cell.scope = "col";
      cell.setAttribute("aria-sort", now);
      const next = {none: key, ascending: `-${key}`, descending: null}[now];
      button.addEventListener("click", () => set("sort", next));
      cell.append(button);
      row.append(cell);
    }
    made.append(row);
    return made;
  }

  function render() {
    const rows = selected(), pages = Math.max(1, Math.ceil(rows.length / PAGE));
    const page = Math.min(pages, Math.max(1, Number.parseInt(state.get("page") ?? "1", 10) || 1));
    const absent = {other: !state.has("against"), video: videos.length === 0, completed: !inARow};
    const shown = [...COLUMNS].filter(([key]) => !absent[key]);
    showState();
    told.textContent = summary(rows);
    const body = element("tbody");
    for (const i of rows.slice(PAGE * (page - 1), PAGE * page)) {
      const row = element("tr", null, "episode");
      for (const [key, [, print, , number]] of shown) {
        const cell = element("td", null, number ? "num" : key === "failure" ? "wrap" : "");
        if (key === "policy") {
          const button = element("button", print(i));
          button.type = "button";
          button.setAttribute("aria-expanded", "false");
          button.addEventListener("click", () => toggle(row, i, shown.length));
          cell.append(button);
        } else if (key === "video" && print(i)) {
          const button = element("button", print(i));
          button.type = "button";
          button.setAttribute("aria-label", "Play the video");
          button.addEventListener("click", () => toggle(row, i, shown.length));
          cell.append(button);
        } else cell.textContent = String(print(i));
        row.append(cell);
      }
      body.append(row);
    }
    table.replaceChildren(head(shown), body);
    pager.replaceChildren();
    if (pages > 1) {
      const turn = (label, to) => {
        const button = element("button", label);
        button.type = "button";
        button.disabled = to < 1 || to > pages;
        button.addEventListener("click", () => set("page", String(to)));
        return button;
      };
      pager.append(turn("Previous", page - 1), element("span", ` Page ${page} of ${pages} `), turn("Next", page + 1));
    }
  }

  // --- one episode --------------------------------------------------------------------------------------------------

  let embedded = null;
  function source(place) {
    const text = videos[place];
    if (text.startsWith("#clip-")) return document.getElementById(text.slice(1)).src;
    if (!text.startsWith("@")) return text;
    embedded ??= JSON.parse(document.getElementById("video-data").textContent);
    return embedded[Number(text.slice(1))];
  }

  function toggle(row, i, width) {
    const button = row.querySelector("button"), next = row.nextElementSibling;
    if (next && next.classList.contains("detail")) {
      next.remove();
      button.setAttribute("aria-expanded", "false");
      return;
    }
    button.setAttribute("aria-expanded", "true");
    const line = lines[columns.line[i]], task = tasks[columns.task[i]];
    const detail = element("tr", null, "detail"), cell = element("td"), inside = element("div", null, "inside");
    const list = element("dl");
    cell.colSpan = width;
    const facts = [
      ["Instruction", task[1]], ["Task", task[0]], ["Policy", line.label], ["Training seed", text(line.seed)],
      ["Control", line.control], ["Failure", columns.failure[i] === null ? null : failures[columns.failure[i]]],
      ["Run", line.run], ["Row", `task ${task[0]}, episode ${columns.episode[i]} of ${line.source}`],
    ];
    for (const [name, value] of facts) if (value !== null) list.append(element("dt", name), element("dd", value));
    if (columns.video[i] !== null) inside.append(player(i));
    inside.append(list);
    cell.append(inside);
    detail.append(cell);
    row.after(detail);
  }

  function player(i) {
    if (videos[columns.video[i]] === "") return element("p", "The video file is missing.", "missing");
    const video = element("video");
    for (const flag of ["muted", "loop", "controls", "playsInline", "autoplay"]) video[flag] = true;
    video.addEventListener("error", () => video.replaceWith(element("p", "This video cannot be played.", "missing")));
    video.src = source(columns.video[i]);
    return video;
  }

  function follow(first) {
    if (location.hash !== "#episodes" && !location.hash.startsWith("#episodes?")) {
      if (first) render();
      return;
    }
    read();
    render();
    document.getElementById("episodes").scrollIntoView();
  }

  window.addEventListener("hashchange", () => follow(false));
  follow(true);
})();
