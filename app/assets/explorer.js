// What only a browser can do: keep the address and the controls together without waiting for the server, put the
// address on the clipboard, and save what is on the screen.

// The address with some fields changed; a field that has its default isn't in it.
function address(search, changes, fields) {
  const asked = new URLSearchParams(search || "");
  Object.entries(changes).forEach(([name, value]) => asked.set(name, value === null ? "" : value));
  const kept = new URLSearchParams();
  Object.entries(fields).forEach(([name, usual]) => {
    const value = asked.get(name);
    if (value !== null && !same(value, usual)) { kept.set(name, value); }
  });
  const query = kept.toString();
  return query ? `?${query}` : "";
}

function same(value, other) {
  return typeof other === "number" ? Number(value) === other : String(value === null ? "" : value) === String(other);
}

// What a field is: as the address says, else its default, where scores that aren't named are the run's first ones.
function field(search, name, known) {
  const usual = known.fields[name], said = new URLSearchParams(search || "").get(name);
  if (typeof usual === "number") { return said === null || Number.isNaN(Number(said)) ? usual : Number(said); }
  if (said || !["score", "against"].includes(name)) { return said === null ? usual : said; }
  if (name === "score") { return known.scores[0] || ""; }
  const score = field(search, "score", known);
  return known.scores.find((each) => each !== score) || "";
}

window.dash_clientside = Object.assign({}, window.dash_clientside, {
  graphprune: {
    // Controls follow the address, and the address follows the controls that were moved.
    bind: function (search, values, ids, known) {
      const nothing = window.dash_clientside.no_update, moved = {};
      const triggered = window.dash_clientside.callback_context.triggered.map((each) => each.prop_id);
      ids.forEach((id, i) => {
        const isTold = triggered.includes(`${JSON.stringify(id)}.value`);
        if (isTold && !same(values[i], field(search, id.control, known))) { moved[id.control] = values[i]; }
      });
      if (Object.keys(moved).length) { return [address(search, moved, known.fields), ids.map(() => nothing)]; }
      // a page that has come moves nothing, and what waits for the address would be dropped on no_update
      if (!triggered.includes("url.search")) { return [search, ids.map(() => nothing)]; }
      const wanted = ids.map((id) => field(search, id.control, known));
      return [nothing, wanted.map((value, i) => same(values[i], value) ? nothing : value)];
    },
    // Fields that the server has chosen; all others are as they have become in the meantime.
    choose: function (chosen, search, known) {
      return chosen ? address(search, chosen, known.fields) : window.dash_clientside.no_update;
    },
    copy: async function (clicks) {
      if (!clicks) { return window.dash_clientside.no_update; }
      try {
        await navigator.clipboard.writeText(window.location.href);
        return "Link copied";
      } catch (error) {
        window.prompt("Copy this link:", window.location.href);
        return "Copy link";
      }
    },
    drawn: function (selected) {  // where, and not which of the thousands of points lie there
      if (!selected) { return null; }
      return { range: selected.range, lassoPoints: selected.lassoPoints };
    },
    table: function (clicks, asked, ids, requests) {
      const request = requests[ids.findIndex((id) => id.name === asked.name)] || {};
      const wanted = JSON.stringify({ sortModel: request.sortModel, filterModel: request.filterModel });
      const query = window.location.search || "?";
      if (clicks) {
        window.location.assign(`/table/${asked.name}.csv${query}&request=${encodeURIComponent(wanted)}`);
      }
      return window.dash_clientside.no_update;
    },
    download: function (clicks, ids) {
      const same = window.dash_clientside.no_update;
      const asked = window.dash_clientside.callback_context.triggered_id;
      if (!asked || !clicks.some(Boolean)) { return ids.map(() => same); }
      if (asked.part === "png" || asked.part === "svg") {
        const graph = document.querySelector(`[id='{"name":"${asked.download}","part":"figure"}'] .js-plotly-plot`);
        const size = graph.getBoundingClientRect();
        window.Plotly.downloadImage(graph, {
          format: asked.part, filename: asked.download, width: size.width, height: size.height,
          scale: asked.part === "png" ? 2 : 1,
        });
      } else {
        window.location.assign(`/download/${asked.download}.${asked.part}${window.location.search}`);
      }
      return ids.map(() => same);
    },
  },
});

window.dashMantineFunctions = Object.assign({}, window.dashMantineFunctions, {
  percent: (value) => `${Math.round(value * 1000) / 10} %`,
});
