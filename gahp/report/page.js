"use strict";
// The timeline and the table of jobs. Everything is drawn from the data in the page; text goes in as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { phases, endings, fields, now, t0, t1 } = data;
  const F = Object.fromEntries(fields.map((name, place) => [name, place]));
  const jobs = data.jobs;
  const marks = { succeeded: "✓", failed: "✗", held: "‖", removed: "−", live: "▸" };
  const $ = (id) => document.getElementById(id);
  const box = $("timeline"), canvas = $("canvas"), spacer = $("spacer");
  const ROW = 18, TOP = 26, PAGE = 25;
  let order = [], chosen = -1, page = 0, from = t0, to = Math.max(t1, t0 + 1), pending = false;

  const seconds = (job, phase) => {
    const s = job[F.spans];
    let sum = 0;
    for (let i = 0; i < s.length; i += 4) if (s[i] === phase) sum += s[i + 2] - s[i + 1];
    return sum;
  };
  const whole = (job) => { const s = job[F.spans]; return s[s.length - 2] - s[1]; };
  const span = (value) => {
    if (value < 59.5) return (value < 10 ? value.toFixed(1) : Math.round(value)) + " s";
    const m = Math.floor(Math.max(value, 60) / 60);
    if (m < 60) return m + " min " + Math.floor(value % 60) + " s";
    const h = Math.floor(m / 60);
    return h < 48 ? h + " h " + (m % 60) + " min" : Math.floor(h / 24) + " d " + (h % 24) + " h";
  };
  const money = (value) => (value >= 1 || value === 0 ? value.toFixed(2) : String(Number(value.toPrecision(3))));
  const clock = (value) => new Date((data.epoch + value) * 1000).toISOString().slice(0, 19).replace("T", " ");
  const ways = {
    start: (a, b) => jobs[a][F.spans][1] - jobs[b][F.spans][1],
    total: (a, b) => whole(jobs[b]) - whole(jobs[a]),
    waiting: (a, b) => seconds(jobs[b], 1) - seconds(jobs[a], 1),
    running: (a, b) => seconds(jobs[b], 3) - seconds(jobs[a], 3),
    attempts: (a, b) => jobs[b][F.attempts] - jobs[a][F.attempts],
    memory: (a, b) => (jobs[b][F.peak] || 0) - (jobs[a][F.peak] || 0),
    cost: (a, b) => (jobs[b][F.cost] || 0) - (jobs[a][F.cost] || 0),
    name: (a, b) => String(jobs[a][F.label]).localeCompare(jobs[b][F.label], undefined, { numeric: true }),
  };

  function arrange() {
    const text = $("find").value.trim().toLowerCase(), ending = $("ending").value;
    order = [];
    jobs.forEach((job, number) => {
      if (ending && endings[job[F.ending]] !== ending) return;
      if (text && ![F.label, F.id, F.run, F.aws, F.program].some((f) => String(job[f]).toLowerCase().includes(text))) return;
      order.push(number);
    });
    order.sort((a, b) => ways[$("sort").value](a, b) || a - b);
    page = 0;
    spacer.style.height = Math.max(0, TOP + order.length * ROW - box.clientHeight) + "px";
    box.scrollTop = 0;
    $("count").textContent = order.length === jobs.length ? `${jobs.length} jobs` : `${order.length} of ${jobs.length} jobs`;
    if (!order.includes(chosen)) choose(-1);
    rows();
    redraw();
  }

  // The picture

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  let paints = null;
  function paint(context, phase) {
    if (!paints) {
      paints = phases.map((name, number) => {
        const tile = document.createElement("canvas"), size = 6;
        tile.width = tile.height = size;
        const c = tile.getContext("2d");
        c.fillStyle = style("--" + name);
        c.fillRect(0, 0, size, size);
        c.strokeStyle = c.fillStyle = style("--paper");
        c.globalAlpha = 0.75;
        c.beginPath();
        if (number === 1) { c.moveTo(0, size); c.lineTo(size, 0); c.stroke(); }
        if (number === 2) c.fillRect(1, 1, 2, 2);
        if (number === 4) { c.moveTo(3, 0); c.lineTo(3, size); c.stroke(); }
        return context.createPattern(tile, "repeat");
      });
    }
    return paints[phase];
  }
  function ticks(width) {
    const raw = (to - from) / Math.max(2, Math.floor(width / 110));
    const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
    return steps.find((step) => step >= raw) || Math.ceil(raw / 86400) * 86400;
  }
  function redraw() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => { pending = false; draw(); });
  }
  function draw() {
    const scale = window.devicePixelRatio || 1, width = box.clientWidth, height = box.clientHeight;
    if (canvas.width !== width * scale || canvas.height !== height * scale) {
      canvas.width = width * scale; canvas.height = height * scale;
      canvas.style.width = width + "px"; canvas.style.height = height + "px";
      paints = null;
    }
    const c = canvas.getContext("2d");
    c.setTransform(scale, 0, 0, scale, 0, 0);
    c.clearRect(0, 0, width, height);
    const left = Math.min(190, width * 0.3), room = width - left - 12, per = room / (to - from);
    c.font = "12px system-ui, 'DejaVu Sans', sans-serif";
    c.textBaseline = "middle";
    const step = ticks(room);
    c.textAlign = "center";
    for (let t = Math.ceil(from / step) * step; t <= to; t += step) {
      const x = left + (t - from) * per;
      c.fillStyle = style("--line");
      c.fillRect(x, TOP - 4, 1, height);
      c.fillStyle = style("--faint");
      const told = t === 0 ? "0" : span(t).replace(/ 0 (s|min|h)$/, "").replace(/\.0 s$/, " s");
      c.fillText(told, Math.min(x, width - c.measureText(told).width / 2 - 2), 12);
    }
    const first = Math.floor(box.scrollTop / ROW), shift = box.scrollTop % ROW;
    c.save();
    c.beginPath();
    c.rect(0, TOP, width, height - TOP);
    c.clip();
    const ink = style("--ink"), bad = style("--bad"), panel = style("--panel"), mark = style("--mark");
    for (let row = 0; row <= (height - TOP) / ROW + 1 && first + row < order.length; row++) {
      const number = order[first + row], job = jobs[number], y = TOP + row * ROW - shift, s = job[F.spans];
      if (number === chosen) { c.fillStyle = panel; c.fillRect(0, y, width, ROW); }
      c.fillStyle = ink;
      c.textAlign = "right";
      let label = String(job[F.label]);
      while (label.length > 3 && c.measureText(label).width > left - 32) label = label.slice(0, -2).replace(/…?$/, "…");
      c.fillText(label, left - 24, y + ROW / 2);
      const ending = endings[job[F.ending]];
      c.fillStyle = ending === "succeeded" || ending === "live" ? ink : bad;
      c.textAlign = "center";
      c.fillText(marks[ending], left - 12, y + ROW / 2);
      for (let i = 0; i < s.length; i += 4) {
        const x = left + Math.max(0, (s[i + 1] - from) * per), end = left + Math.min(room, (s[i + 2] - from) * per);
        if (end < left || x > left + room) continue;
        c.fillStyle = paint(c, s[i]);
        c.fillRect(x, y + 3, Math.max(1, end - x - (end - x > 4 ? 1 : 0)), ROW - 6);
      }
      if (number === chosen) { c.strokeStyle = mark; c.lineWidth = 2; c.strokeRect(1, y + 1, width - 2, ROW - 2); }
    }
    c.restore();
    if (!order.length) { c.fillStyle = style("--faint"); c.textAlign = "center"; c.fillText("No job fits.", width / 2, height / 2); }
  }

  // One job

  function choose(number, show) {
    chosen = number;
    const detail = $("detail");
    detail.replaceChildren();
    if (number < 0) {
      detail.textContent = "Choose a job in the timeline (click, or Tab to it and use the arrow keys) or in the table.";
      return;
    }
    const job = jobs[number], list = document.createElement("dl");
    const title = document.createElement("strong");
    title.textContent = `${job[F.label]}: ${endings[job[F.ending]]}`;
    const say = (name, value, wide) => {
      if (value === null || value === undefined || value === "") return;
      const part = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd");
      if (wide) part.className = "wide";
      dt.textContent = name; dd.textContent = value;
      part.append(dt, dd); list.append(part);
    };
    say("HTCondor id", job[F.id]); say("AWS Batch id", job[F.aws]); say("program", job[F.program]); say("queue", job[F.queue]);
    say("accepted", clock(job[F.spans][1]) + " UTC"); say("in all", span(whole(job)));
    phases.forEach((name, phase) => { const s = seconds(job, phase); if (s > 0) say(name, span(s)); });
    say("attempts", job[F.attempts]);
    say("exit", job[F.signal] !== null ? "signal " + job[F.signal] : job[F.exit]);
    say("vCPUs", job[F.cpus]);
    say("memory", job[F.asked] === null ? null : `${job[F.peak] === null ? "not measured" : job[F.peak] + " MiB"} of ${job[F.asked]} MiB`);
    if (job[F.cost] !== null) say("cost", `${money(job[F.cost])} ${data.currency}`);
    say("why", job[F.reason], true);
    detail.append(title, list);
    if (show) {
      const place = order.indexOf(number), top = place * ROW, room = box.clientHeight - TOP;
      if (top < box.scrollTop) box.scrollTop = top;
      else if (top + ROW > box.scrollTop + room) box.scrollTop = top + ROW - room;
      const there = Math.floor(place / PAGE);
      if (there !== page) { page = there; rows(); }
    }
    for (const row of $("rows").children) row.setAttribute("aria-selected", String(Number(row.dataset.job) === chosen));
    redraw();
  }

  // The table

  function rows() {
    const body = document.createDocumentFragment(), last = Math.max(0, Math.ceil(order.length / PAGE) - 1);
    page = Math.min(Math.max(0, page), last);
    for (const number of order.slice(page * PAGE, (page + 1) * PAGE)) {
      const job = jobs[number], row = document.createElement("tr");
      row.dataset.job = number;
      row.setAttribute("aria-selected", String(number === chosen));
      const cells = [job[F.label], job[F.id], job[F.program], marks[endings[job[F.ending]]] + " " + endings[job[F.ending]],
        span(seconds(job, 1)), span(seconds(job, 3)), span(whole(job)), job[F.attempts],
        job[F.peak] === null ? "–" : job[F.peak] + (job[F.asked] ? " / " + job[F.asked] : ""),
        ...(data.currency ? [job[F.cost] === null ? "–" : money(job[F.cost])] : [])];
      cells.forEach((value, place) => {
        const cell = document.createElement("td");
        if (place > 0 && place < 4) cell.className = place === 3 ? "word" : "text";
        if (place === 0) {
          const button = document.createElement("button");
          button.type = "button"; button.textContent = value; button.style.cssText = "all:unset;cursor:pointer;text-decoration:underline";
          cell.append(button);
        } else cell.textContent = value;
        row.append(cell);
      });
      body.append(row);
    }
    $("rows").replaceChildren(body);
    $("page").textContent = `page ${page + 1} of ${last + 1}`;
    $("before").disabled = page === 0;
    $("after").disabled = page >= last;
    for (const head of document.querySelectorAll("th[data-sort]"))
      head.setAttribute("aria-sort", head.dataset.sort === $("sort").value ? (head.dataset.sort === "name" ? "ascending" : "descending") : "none");
  }

  // What people do

  function zoom(factor, middle) {
    const width = Math.min(Math.max((to - from) * factor, (t1 - t0) / 5000, 0.1), Math.max(t1 - t0, 1));
    const at = middle === undefined ? (from + to) / 2 : middle;
    from = Math.max(t0, Math.min(at - width * ((at - from) / (to - from)), Math.max(t1, t0 + 1) - width));
    to = from + width;
    redraw();
  }
  function pan(part) {
    const width = to - from, move = Math.max(t0 - from, Math.min(width * part, Math.max(t1, t0 + 1) - to));
    from += move; to += move;
    redraw();
  }
  const at = (event) => {
    const left = Math.min(190, box.clientWidth * 0.3), room = box.clientWidth - left - 12;
    return from + ((event.clientX - box.getBoundingClientRect().left - left) / room) * (to - from);
  };
  canvas.addEventListener("click", (event) => {
    const y = event.clientY - box.getBoundingClientRect().top - TOP;
    const place = Math.floor((y + box.scrollTop) / ROW);
    if (y >= 0 && place < order.length) choose(order[place], true);
  });
  box.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, at(event));
  }, { passive: false });
  box.addEventListener("scroll", redraw);
  box.addEventListener("keydown", (event) => {
    const place = order.indexOf(chosen), most = order.length - 1, leap = Math.floor((box.clientHeight - TOP) / ROW);
    const go = { ArrowDown: place + 1, ArrowUp: place < 0 ? 0 : place - 1, PageDown: place + leap, PageUp: place - leap, Home: 0, End: most };
    if (event.key in go && order.length) choose(order[Math.min(Math.max(0, go[event.key]), most)], true);
    else if (event.key === "+" || event.key === "=") zoom(0.5);
    else if (event.key === "-") zoom(2);
    else if (event.key === "0") zoom(1e9);
    else if (event.key === "ArrowLeft") pan(-0.2);
    else if (event.key === "ArrowRight") pan(0.2);
    else return;
    event.preventDefault();
  });
  $("closer").addEventListener("click", () => zoom(0.5));
  $("wider").addEventListener("click", () => zoom(2));
  $("all").addEventListener("click", () => zoom(1e9));
  $("find").addEventListener("input", arrange);
  $("ending").addEventListener("change", arrange);
  $("sort").addEventListener("change", arrange);
  $("before").addEventListener("click", () => { page -= 1; rows(); });
  $("after").addEventListener("click", () => { page += 1; rows(); });
  $("rows").addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) choose(Number(row.dataset.job), true);
  });
  document.querySelector("#table thead").addEventListener("click", (event) => {
    const head = event.target.closest("th[data-sort]");
    if (head) { $("sort").value = head.dataset.sort; arrange(); }
  });
  new ResizeObserver(redraw).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { paints = null; redraw(); });
  arrange();
})();
