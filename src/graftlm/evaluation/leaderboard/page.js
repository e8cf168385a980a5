"use strict";
(() => {
  const FIRST = 2; // the columns before the scores: rank, model
  const COLOURS = 5;
  const root = document.documentElement;
  const table = document.getElementById("board");
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...table.tBodies[0].rows];
  const after = FIRST + heads.filter((head) => head.dataset.name !== undefined).length; // then costs, always shown
  const control = (id) => document.getElementById(id) || { value: "", addEventListener() {} };
  const [text, suite, precision, size] = ["text", "suite", "precision", "size"].map(control);
  let sorted = heads.findIndex((head) => head.hasAttribute("aria-sort"));
  let descending = heads[sorted].getAttribute("aria-sort") === "descending";

  const inSuite = () => suite.value.split(" ").map((place) => FIRST + Number(place));
  const shown = () => rows.filter((row) => !row.hidden);

  function compare(one, other) {
    const a = one.cells[sorted], b = other.cells[sorted];
    const missing = (cell) => (cell.dataset.v === undefined ? 2 : cell.dataset.unranked !== undefined ? 1 : 0);
    if (missing(a) !== missing(b)) return missing(a) - missing(b); // last in either direction
    if (missing(a) === 2) return 0;
    const words = Number.isNaN(Number(a.dataset.v) + Number(b.dataset.v)); // names, precisions
    const order = words || sorted === 1 ? a.dataset.v.localeCompare(b.dataset.v) : Number(a.dataset.v) - Number(b.dataset.v);
    return descending ? -order : order;
  }

  function sort() {
    heads.forEach((head, place) => {
      if (place === sorted) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    rows.sort(compare);
    table.tBodies[0].append(...rows);
    const scored = sorted >= FIRST && sorted < after;
    for (const row of rows) row.cells[0].textContent = (scored && row.cells[sorted].dataset.r) || "–";
  }

  function showColumns() {
    const visible = new Set(inSuite());
    for (const row of [table.tHead.rows[0], ...rows]) {
      for (let place = FIRST; place < after; place++) row.cells[place].hidden = !visible.has(place);
    }
    filter();
    if (sorted >= FIRST && sorted < after && !visible.has(sorted)) {
      sorted = inSuite()[0];
      descending = heads[sorted].dataset.first === "descending";
    }
    sort();
    drawRadar();
  }

  function filter() {
    const wanted = text.value.trim().toLowerCase(), places = inSuite();
    for (const row of rows) {
      row.hidden =
        places.every((place) => row.cells[place].dataset.v === undefined) ||
        !row.cells[1].dataset.v.toLowerCase().includes(wanted) ||
        (precision.value !== "" && row.dataset.precision !== precision.value) ||
        (size.value !== "" && row.dataset.size !== size.value);
    }
    tell();
  }

  function tell() {
    const count = shown().length;
    const words = root.lang === "zh" ? `${rows.length} 个模型中的 ${count} 个` : `${count} of ${rows.length} models`;
    document.getElementById("status").textContent = words;
  }

  function translate() {
    for (const option of document.querySelectorAll("option[data-en]")) option.textContent = option.dataset[root.lang];
    tell();
    drawRadar();
  }

  const chosen = () => rows.filter((row) => row.querySelector("input").checked);

  function svg(name, attributes, content) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (content !== undefined) element.textContent = content;
    return element;
  }

  function axes() {
    const all = inSuite().filter((place) => heads[place].dataset.points !== undefined);
    return (all.length > 3 ? all.slice(1) : all).slice(0, 12); // the suite's own mean is no axis of its own
  }

  function drawRadar() {
    const place = document.getElementById("radar");
    const models = chosen(), columns = axes();
    place.replaceChildren();
    if (!models.length || columns.length < 3) return;
    const point = (axis, share) => {
      const angle = (2 * Math.PI * axis) / columns.length - Math.PI / 2;
      return [230 + 130 * share * Math.cos(angle), 170 + 130 * share * Math.sin(angle)];
    };
    const line = (shares) => shares.map((share, axis) => point(axis, share).map((x) => x.toFixed(1)).join(",")).join(" ");
    const name = (row) => row.cells[1].dataset.v;
    const picture = svg("svg", { viewBox: "-30 0 520 340", role: "img", "aria-label": models.map(name).join("; ") });
    const scores = models.flatMap((row) => columns.map((column) => Number(row.cells[column].dataset.v || 0)));
    const top = Math.min(100, Math.max(10, 10 * Math.ceil(Math.max(...scores) / 10)));
    for (const share of [0.5, 1]) {
      picture.append(svg("polygon", { class: "ring", points: line(columns.map(() => share)) }));
      picture.append(svg("text", { x: 234, y: 170 - 130 * share + 13 }, String(top * share)));
    }
    columns.forEach((column, axis) => {
      const [x, y] = point(axis, 1.1);
      const anchor = Math.abs(x - 230) < 12 ? "middle" : x > 230 ? "start" : "end";
      const label = heads[column].dataset.name;
      picture.append(svg("text", { x, y: y + 4, "text-anchor": anchor }, label.length > 16 ? `${label.slice(0, 15)}…` : label));
    });
    const legend = document.createElement("ul");
    models.forEach((row, number) => {
      const values = columns.map((column) => row.cells[column].dataset.v);
      const colour = `var(--line-${number % COLOURS})`;
      const known = values.map((value) => (value === undefined ? 0 : Math.max(0, Math.min(1, Number(value) / top))));
      const look = { points: line(known), fill: colour, "fill-opacity": 0.1, stroke: colour, "stroke-width": 2 };
      picture.append(svg("polygon", look));
      known.forEach((share, axis) => {
        if (values[axis] === undefined) return; // a gap in the tests is no zero: no dot there
        const [cx, cy] = point(axis, share);
        picture.append(svg("circle", { cx, cy, r: 3, fill: colour }));
      });
      const entry = document.createElement("li"), swatch = document.createElement("span"), words = document.createElement("bdi");
      swatch.className = "swatch";
      swatch.style.background = colour;
      words.textContent = name(row) + (values.includes(undefined) ? (root.lang === "zh" ? "（有缺项）" : " (some not run)") : "");
      entry.append(swatch, words);
      legend.append(entry);
    });
    place.append(picture, legend);
  }

  heads.forEach((head, place) => {
    if (place === 0) return;
    head.querySelector("button").addEventListener("click", () => {
      descending = place === sorted ? !descending : head.dataset.first === "descending";
      sorted = place;
      sort();
    });
  });
  rows.forEach((row) => row.querySelector("input").addEventListener("change", (event) => {
    if (chosen().length > COLOURS) event.target.checked = false;
    drawRadar();
  }));
  for (const field of [text, precision, size]) field.addEventListener("input", filter);
  suite.addEventListener("change", showColumns);
  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  document.querySelector(".language").addEventListener("click", () => {
    root.lang = root.lang === "zh" ? "en" : "zh";
    translate();
  });
  if (/^zh/i.test(navigator.language)) root.lang = "zh";
  showColumns();
  translate();
})();
