// The comparison's panels: drawn by Plotly from the page's own data, when they come into view.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const darkMedia = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const SPREAD = 20; // where the longest run is this times the shortest, an axis is logarithmic
  const CONFIG = {
    displaylogo: false,
    responsive: true,
    displayModeBar: "hover",
    // Named one by one: Plotly's own choice has a button that sends the chart to its makers.
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
    plotlyServerURL: "",
    toImageButtonOptions: { format: "svg", filename: "comparison" },
  };

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : darkMedia.matches);
  const probe = document.createElement("i");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  // Plotly reads a little HTML in names; what a run is called is text.
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const last = (values) => values[values.length - 1];
  const faded = (hex, alpha) => hex + Math.round(255 * alpha).toString(16).padStart(2, "0");

  // --- one board: a legend, some choices, and panels that follow them ------------------------

  class Board {
    constructor(element, entries, draw) {
      this.element = element;
      this.entries = entries;
      this.draw = draw;
      this.hidden = new Set();
      this.focus = null;
      this.choices = {};
      this.panels = [...element.querySelectorAll(".panel")];
      this.seen = new Set();
      this.listenToChoices();
      this.listenToLegend();
      const watcher = new IntersectionObserver((changes) => {
        for (const change of changes) {
          if (!change.isIntersecting) continue;
          watcher.unobserve(change.target);
          this.seen.add(change.target);
          this.drawPanel(change.target);
        }
      }, { rootMargin: "800px" });
      this.panels.forEach((panel) => watcher.observe(panel));
    }

    listenToChoices() {
      for (const group of this.element.querySelectorAll("[role=radiogroup]")) {
        const buttons = [...group.querySelectorAll("button")];
        const choose = (chosen) => {
          for (const button of buttons) {
            button.setAttribute("aria-checked", button === chosen);
            button.tabIndex = button === chosen ? 0 : -1;
          }
          Object.assign(this.choices, chosen.dataset);
        };
        choose(buttons[0]);
        buttons.forEach((button, i) => {
          const pick = (other) => {
            choose(other);
            other.focus();
            this.redraw();
          };
          button.addEventListener("click", () => pick(button));
          button.addEventListener("keydown", (event) => {
            const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
            if (!step) return;
            event.preventDefault();
            pick(buttons[(i + step + buttons.length) % buttons.length]);
          });
        });
      }
    }

    listenToLegend() {
      this.chips = [...this.element.querySelectorAll(".chip")];
      for (const chip of this.chips) {
        const index = Number(chip.dataset.entry);
        chip.addEventListener("click", (event) => {
          if (event.shiftKey) this.isolate(index);
          else if (!this.hidden.delete(index)) this.hidden.add(index);
          this.redraw();
        });
        chip.addEventListener("mouseenter", () => this.setFocus(index));
        chip.addEventListener("mouseleave", () => this.setFocus(null));
      }
      for (const button of this.element.querySelectorAll("[data-all]")) {
        button.addEventListener("click", () => {
          this.hidden = new Set(button.dataset.all === "hide" ? this.entries.keys() : []);
          this.redraw();
        });
      }
    }

    isolate(index) {
      const alone = this.hidden.size === this.entries.length - 1 && !this.hidden.has(index);
      this.hidden = new Set(alone ? [] : this.entries.keys());
      this.hidden.delete(index);
    }

    setFocus(index) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => {
        if (this.focus === index || (index !== null && this.hidden.has(index))) return;
        this.focus = index;
        this.redraw();
      }, 120);
    }

    redraw() {
      for (const chip of this.chips) {
        chip.setAttribute("aria-pressed", !this.hidden.has(Number(chip.dataset.entry)));
      }
      this.seen.forEach((panel) => this.drawPanel(panel));
    }

    drawPanel(panel) {
      const { traces, layout } = this.draw(panel, this);
      Plotly.react(panel, traces, layout, CONFIG);
    }

    look(index) {
      const { style } = this.entries[index];
      const dimmed = this.focus !== null && this.focus !== index;
      return {
        color: isDark() ? style.dark : style.color,
        opacity: dimmed ? 0.15 : 1,
        width: style.crowd ? 1 : this.focus === index ? 3.4 : 2.2,
        dash: style.dash,
        symbol: style.symbol,
      };
    }
  }

  // --- axes ----------------------------------------------------------------------------------

  const COUNT = { tickformat: "~s", hover: ",.0f", unit: "" };
  const FORMATS = {
    seconds: { tickformat: "~s", hover: ".3~s", unit: "s" },
    iteration: COUNT,
    data_passes: COUNT,
    hvp_count: COUNT,
    train_accuracy: { tickformat: ".1~%", hover: ".2%", unit: "" },
    test_accuracy: { tickformat: ".1~%", hover: ".2%", unit: "" },
    suboptimality: { hover: ".2e", unit: "" },
    grad_norm: { hover: ".2e", unit: "" },
  };
  const formatOf = (column) => FORMATS[column] || { hover: ".6~g", unit: "" };

  // Plotly leaves the suffix off the small ticks of a logarithmic axis: 20m must not be minutes.
  const SMALL_SECONDS = {};
  for (const digit of [2, 3, 4, 5, 6, 7, 8, 9]) {
    for (const ten of ["", "0", "00"]) {
      for (const prefix of ["n", "µ", "m", ""]) SMALL_SECONDS[digit + ten + prefix] = `${digit}${ten}${prefix}s`;
    }
  }

  // Half an epoch is 0.5, not 500m.
  const SMALL_COUNTS = {};
  for (let milli = 1; milli < 1000; milli++) SMALL_COUNTS[`${milli}m`] = String(milli / 1000);

  function axis(column, name, type) {
    const { tickformat, unit } = formatOf(column);
    return {
      type,
      title: { text: name, standoff: 10 },
      gridcolor: colour("--line"),
      linecolor: colour("--faint"),
      tickcolor: colour("--line"),
      zeroline: false,
      nticks: 8,
      ...(tickformat ? { tickformat, ticksuffix: unit } : { exponentformat: "power" }),
      ...(type === "log" && column === "seconds" && { labelalias: SMALL_SECONDS }),
      ...(FORMATS[column] === COUNT && { labelalias: SMALL_COUNTS }),
    };
  }

  function layout(panel, x, y) {
    x.nticks = Math.max(3, Math.floor(panel.clientWidth / (x.ticksuffix ? 100 : 80)));
    const font = { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--ink") };
    return {
      font,
      margin: { l: 76, r: 14, t: 10, b: 48 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      showlegend: false,
      hovermode: "closest",
      dragmode: touch ? false : "zoom",
      hoverlabel: { font, bgcolor: colour("--paper"), bordercolor: colour("--line"), align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--line"), activecolor: colour("--faint") },
      xaxis: x,
      yaxis: y,
    };
  }

  // --- curves of a study ---------------------------------------------------------------------

  function scaleOf(choice, study, cost) {
    if (choice !== "auto") return choice;
    const ends = study.entries.map((e) => e.middle[cost] && last(e.middle[cost])).filter((v) => v > 0);
    return Math.max(...ends) > SPREAD * Math.min(...ends) ? "log" : "linear";
  }

  // What the start cost says nothing of the steps: a logarithmic axis begins at the first of them.
  function fromFirstStep(study, cost) {
    const columns = study.entries.map((e) => e.middle[cost]).filter((x) => x && last(x) > 0);
    const firsts = columns.map((x) => x.slice(1).find((v) => v > 0)).filter((v) => v > 0);
    if (!firsts.length) return null;
    return [Math.log10(0.7 * Math.min(...firsts)), Math.log10(1.5 * Math.max(...columns.map(last)))];
  }

  function drawStudy(study) {
    return (panel, board) => {
      const cost = study.costs.find((each) => each.column === panel.dataset.cost);
      const quantity = study.quantities.find((each) => each.column === board.choices.quantity);
      const floor = quantity.column === "suboptimality" ? study.floor : null;
      const bands = [];
      const lines = [];
      study.entries.forEach((entry, index) => {
        const x = entry.middle[cost.column];
        const y = entry.middle[quantity.column];
        if (board.hidden.has(index) || !x || !y || !(last(x) > x[0])) return;
        const look = board.look(index);
        const raise = (values) => (floor === null ? values : values.map((v) => (v === null ? v : Math.max(v, floor))));
        const band = bandOf(entry, cost.column, quantity.column, raise);
        if (band) bands.push({ ...band, fillcolor: faded(look.color, 0.16 * look.opacity) });
        lines.push(lineOf(entry, x, raise(y), look, cost.column, quantity.column));
        if (entry.failed) lines.push(crossOf(x, raise(y)));
      });
      const xScale = scaleOf(board.choices.xscale, study, cost.column);
      const yScale = board.choices.yscale === "auto" ? (quantity.log ? "log" : "linear") : board.choices.yscale;
      const name = `${quantity.name} against ${cost.name}; the tables below give the numbers`;
      panel.setAttribute("aria-label", name);
      const across = axis(cost.column, cost.name, xScale);
      if (xScale === "log") across.range = fromFirstStep(study, cost.column) || undefined;
      const made = layout(panel, across, axis(quantity.column, quantity.name, yScale));
      if (floor !== null && yScale === "log") markFloor(made, floor);
      return { traces: [...bands, ...lines], layout: made };
    };
  }

  function lineOf(entry, x, y, look, xColumn, yColumn) {
    const many = x.length > 26;
    const [fx, fy] = [formatOf(xColumn), formatOf(yColumn)];
    return {
      type: "scatter",
      mode: look.symbol ? "lines+markers" : "lines",
      name: plain(entry.label),
      x,
      y,
      opacity: look.opacity,
      line: { color: look.color, width: look.width, dash: look.dash },
      marker: {
        symbol: look.symbol ? `${look.symbol}-open` : undefined,
        size: 7,
        line: { width: 1.5 },
        color: look.color,
        maxdisplayed: many ? 10 : 0,
      },
      hovertemplate: `%{y:${fy.hover}}${fy.unit}<br>%{x:${fx.hover}}${fx.unit} ${xColumn === "seconds" ? "" : UNITS[xColumn]}`,
      hoverlabel: { namelength: -1 },
    };
  }
  const UNITS = { iteration: "steps", data_passes: "passes", hvp_count: "Hessian products" };

  // Where less is better, the band lies between the runs that are ahead at each step, in cost and
  // in value, and those that are behind. An accuracy rises and falls: its band is of values only.
  function bandOf(entry, xColumn, yColumn, raise) {
    const rising = yColumn.endsWith("accuracy");
    const low = entry.low[yColumn] || entry.middle[yColumn];
    const high = entry.high[yColumn] || entry.middle[yColumn];
    const early = (!rising && entry.low[xColumn]) || entry.middle[xColumn];
    const late = (!rising && entry.high[xColumn]) || entry.middle[xColumn];
    if (low === high && early === late) return null;
    const whole = (i) => [low[i], high[i], early[i], late[i]].every((v) => v !== null);
    const rows = [...low.keys()].filter(whole);
    const back = [...rows].reverse();
    return {
      type: "scatter",
      mode: "lines",
      x: [...rows.map((i) => early[i]), ...back.slice(0, 1).map((i) => late[i]), ...back.map((i) => late[i])],
      y: raise([...rows.map((i) => low[i]), ...back.slice(0, 1).map((i) => low[i]), ...back.map((i) => high[i])]),
      fill: "toself",
      line: { width: 0 },
      hoverinfo: "skip",
    };
  }

  function crossOf(x, y) {
    let end = y.length - 1;
    while (end > 0 && y[end] === null) end -= 1;
    return {
      type: "scatter",
      mode: "markers",
      x: [x[end]],
      y: [y[end]],
      marker: { symbol: "x", size: 11, color: colour("--ink"), line: { width: 1, color: colour("--paper") } },
      hoverinfo: "skip",
    };
  }

  function markFloor(made, floor) {
    made.shapes = [{
      type: "line", xref: "paper", x0: 0, x1: 1, y0: floor, y1: floor,
      line: { color: colour("--faint"), width: 1, dash: "dash" },
    }];
    made.annotations = [{
      xref: "paper", x: 0, xanchor: "left", yref: "y", y: Math.log10(floor), yanchor: "top", showarrow: false,
      text: "rounding error of f", font: { size: 10, color: colour("--faint") },
    }];
  }

  // --- performance profiles ------------------------------------------------------------------

  function drawProfiles(made) {
    return (panel, board) => {
      const profile = made.profiles.find(
        (each) => each.target === board.choices.target && each.cost === board.choices.cost,
      );
      const end = 1.25 * profile.largest;
      const lines = [];
      made.entries.forEach((entry, index) => {
        const ratios = profile.ratios[entry.label];
        if (board.hidden.has(index) || !ratios) return;
        const look = board.look(index);
        const share = ratios.map((_, i) => (i + 1) / profile.problems);
        lines.push({
          type: "scatter",
          mode: "lines+markers",
          name: plain(entry.label),
          x: [1, ...ratios, end],
          y: [0, ...share, share.length ? last(share) : 0],
          opacity: look.opacity,
          line: { color: look.color, width: look.width, dash: look.dash, shape: "hv" },
          marker: { symbol: `${look.symbol}-open`, size: [0, ...ratios.map(() => 8), 0], line: { width: 1.5 }, color: look.color },
          hovertemplate: "%{y:.0%} of the problems within %{x:.3~g}×",
          hoverlabel: { namelength: -1 },
        });
      });
      const x = axis("ratio", "times the best method's cost", "log");
      const y = axis("train_accuracy", "share of the problems", "linear");
      const ticks = [1, 2, 5, 10, 20, 50, 100, 1e3, 1e4, 1e5, 1e6].filter((v) => v < end);
      Object.assign(x, { range: [-0.02, Math.log10(end)], tickvals: ticks, ticktext: ticks.map((v) => `${v}×`) });
      Object.assign(y, { range: [-0.03, 1.03], tickformat: ".0%" });
      return { traces: lines, layout: layout(panel, x, y) };
    };
  }

  // --- growth with the problem's size --------------------------------------------------------

  function drawGrowth(made) {
    return (panel, board) => {
      const lines = made.entries
        .map((entry, index) => ({ entry, index }))
        .filter(({ index }) => !board.hidden.has(index))
        .map(({ entry, index }) => {
          const line = lineOf(entry, made.sizes, entry.seconds, board.look(index), "d", "seconds");
          return { ...line, hovertemplate: "d = %{x:,}<br>%{y:.3~s}s" };
        });
      const x = axis("d", "number d of features", "log");
      const y = axis("seconds", "time", "log");
      Object.assign(x, { tickvals: made.sizes, tickformat: ",", exponentformat: "none" });
      y.nticks = 4;
      const drawn = layout(panel, x, y);
      delete drawn.xaxis.nticks;
      return { traces: lines, layout: drawn };
    };
  }

  // --- tables --------------------------------------------------------------------------------

  const NUMBER = /^([-+]?)(\d[\d,]*\.?\d*(?:e[-+]?\d+)?|inf)(?: \[.*\])?(?: ?(µs|ms|s|%|×))?$/;
  const SIZES = { "µs": 1e-6, ms: 1e-3 };
  const MISSING = new Set(["", "–", "never", "nan"]);
  const collator = new Intl.Collator("en", { numeric: true });

  // Numbers come before texts, what is missing comes last: in both directions.
  function keyOf(cell) {
    const text = cell.dataset.value || cell.textContent.trim();
    if (MISSING.has(text)) return { rank: 2, value: 0 };
    const found = NUMBER.exec(text);
    if (!found) return { rank: 1, value: text };
    const [, sign, digits, unit] = found;
    const size = digits === "inf" ? Infinity : Number(digits.replaceAll(",", "")) * (SIZES[unit] || 1);
    return { rank: 0, value: sign === "-" ? -size : size };
  }

  function sorted(rows, column, direction) {
    const keys = new Map(rows.map((row) => [row, keyOf(row.cells[column])]));
    const order = (a, b) => (a.rank === 1 ? collator.compare(a.value, b.value) : a.value - b.value);
    return [...rows].sort((one, other) => {
      const [a, b] = [keys.get(one), keys.get(other)];
      return a.rank - b.rank || direction * order(a, b);
    });
  }

  // A click on a head sorts upwards, a second one downwards, a third brings the first order back.
  const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

  function makeSortable(table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    if (rows.length < 2) return;
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const order = NEXT[head.getAttribute("aria-sort") || "none"];
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        if (order !== "none") head.setAttribute("aria-sort", order);
        body.append(...(order === "none" ? rows : sorted(rows, column, order === "ascending" ? 1 : -1)));
      });
    });
  }

  // --- the page ------------------------------------------------------------------------------

  document.querySelectorAll("table").forEach(makeSortable);

  const boards = [...document.querySelectorAll("[data-board]")]
    .filter((element) => element.querySelector(".panel"))
    .map((element) => {
      if (element.dataset.board === "profiles") {
        return new Board(element, data.profiles.entries, drawProfiles(data.profiles));
      }
      if (element.dataset.board === "growth") {
        return new Board(element, data.scaling.entries, drawGrowth(data.scaling));
      }
      const study = data.studies[Number(element.dataset.study)];
      return new Board(element, study.entries, drawStudy(study));
    });
  const redrawAll = () => boards.forEach((board) => board.redraw());

  const theme = document.getElementById("theme");
  const name = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
  };
  theme.hidden = false;
  name();
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
    redrawAll();
  });
  darkMedia.addEventListener("change", () => {
    name();
    redrawAll();
  });
})();
