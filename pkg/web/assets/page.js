// The live parts of the status page. The page is whole without them: what is shown is made by the daemon, and this asks for it again
// and puts in what has changed. Nothing here makes markup from text, so that no text can become markup.
'use strict';

(function () {
  const refreshEvery = 2000; // ms
  const answerWithin = 10000;
  const maxRows = 200; // of events that are shown
  const lastEvents = 50; // with which the list begins
  const maxDetail = 64 * 1024; // characters of an event that are kept
  const hiddenFor = 60000; // ms after which a page that nobody sees stops listening

  // morph makes one element what another one is. What is the same stays as it is, so that the selection, the focus and what was
  // opened stay too.
  function morph(from, to) {
    for (const name of from.getAttributeNames()) {
      if (!to.hasAttribute(name) && !kept(from, name)) from.removeAttribute(name);
    }
    for (const name of to.getAttributeNames()) {
      if (from.getAttribute(name) !== to.getAttribute(name) && !kept(from, name)) from.setAttribute(name, to.getAttribute(name));
    }
    const keyed = new Map();
    for (const child of from.children) if (keyOf(child)) keyed.set(keyOf(child), child);
    const wanted = new Set();
    for (const child of to.children) if (keyOf(child)) wanted.add(keyOf(child));
    let old = from.firstChild;
    for (let next = to.firstChild; next;) {
      const following = next.nextSibling;
      const key = keyOf(next);
      const same = key && keyed.get(key);
      if (same && same !== old) { // it has moved
        from.insertBefore(same, old);
        old = same;
      } else if (!same && old && wanted.has(keyOf(old))) { // what stands here comes later
        from.insertBefore(document.importNode(next, true), old);
        next = following;
        continue;
      }
      if (!old) {
        from.appendChild(document.importNode(next, true));
      } else {
        const after = old.nextSibling;
        if (old.nodeType !== next.nodeType || old.nodeName !== next.nodeName) {
          from.replaceChild(document.importNode(next, true), old);
        } else if (old.nodeType === Node.ELEMENT_NODE) {
          if (!old.isEqualNode(next)) morph(old, next);
        } else if (old.nodeValue !== next.nodeValue) {
          old.nodeValue = next.nodeValue;
        }
        old = after;
      }
      next = following;
    }
    while (old) {
      const after = old.nextSibling;
      old.remove();
      old = after;
    }
  }

  // keyOf is what makes an element the same one, wherever it stands.
  function keyOf(node) {
    return node.nodeType === Node.ELEMENT_NODE ? node.id || node.dataset.key || '' : '';
  }

  // kept says which attributes are the reader's and not the daemon's.
  function kept(element, name) {
    return name === 'open' && element.nodeName === 'DETAILS';
  }

  const lost = document.getElementById('lost');
  let lastAnswer = new Date();
  let timer = 0;
  let asking = false;
  let again = false;

  async function refresh() {
    clearTimeout(timer);
    if (asking) {
      again = true;
      return;
    }
    asking = true;
    again = false;
    try {
      const answer = await fetch('./' + location.search, {cache: 'no-store', credentials: 'same-origin', signal: AbortSignal.timeout(answerWithin)});
      if (!answer.ok) throw new Error('the daemon answers ' + answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
      for (const part of document.querySelectorAll('[data-live]')) {
        const update = fresh.getElementById(part.id);
        if (update) morph(part, update);
      }
      document.title = fresh.title;
      lastAnswer = new Date();
      lost.hidden = true;
    } catch (problem) {
      const text = 'No answer from the daemon since ' + clock(lastAnswer) + ' UTC. What is below is from then.';
      if (lost.textContent !== text) lost.textContent = text;
      lost.hidden = false;
    }
    asking = false;
    schedule(again ? 200 : refreshEvery);
  }

  function schedule(after) {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(refresh, after);
  }

  function clock(t) {
    return t.toISOString().slice(11, 19);
  }

  // The search: the daemon does it; this asks while one types.
  const search = document.getElementById('estate-form');
  if (search) {
    let typing = 0;
    const ask = function () {
      const query = new URLSearchParams(location.search);
      const text = search.elements.q.value.trim();
      query.delete('all');
      if (text) query.set('q', text); else query.delete('q');
      history.replaceState(null, '', './' + (query.size ? '?' + query : ''));
      refresh();
    };
    search.addEventListener('submit', function (e) { e.preventDefault(); ask(); });
    search.addEventListener('input', function () { clearTimeout(typing); typing = setTimeout(ask, 250); });
    document.getElementById('estate-live').addEventListener('click', function (e) {
      const link = e.target.closest('a[href^="?"]');
      if (!link || e.ctrlKey || e.metaKey || e.shiftKey || e.button !== 0) return;
      e.preventDefault();
      const query = new URLSearchParams(new URL(link.href).search);
      history.replaceState(null, '', './' + (query.size ? '?' + query : ''));
      search.elements.q.value = query.get('q') || '';
      for (const hidden of search.querySelectorAll('[type=hidden]')) hidden.remove();
      refresh();
    });
  }

  document.addEventListener('visibilitychange', function () { if (!document.hidden) refresh(); });
  schedule(refreshEvery);

  // The live events.
  const tail = document.getElementById('tail');
  if (!tail || !window.EventSource) return;
  tail.hidden = false;
  const rows = document.getElementById('tail-rows');
  const state = document.getElementById('tail-state');
  const filter = document.getElementById('tail-filter');
  const pauseButton = document.getElementById('tail-pause');
  const details = new WeakMap(); // the text of an event, by its row
  let source = null;
  let paused = false;
  let waiting = []; // what is not shown yet: events, and numbers of those that were lost
  let skipped = 0; // how many of them had to go
  let shown = 0;
  let drawing = false;
  let retry = 0;
  let wait = 1000;
  let hiding = 0;
  let leader = ''; // the machine whose events are shown, where this one stands by

  function address() {
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(filter)) {
      if (!value.trim()) continue;
      if (name === 'text') query.set(name, value.trim());
      else if (name === 'severity') for (const one of value.split(' ')) query.append(name, one);
      else if (name === 'sink') query.set(name, value);
      else query.append(name, value.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')); // the parameter is a regular expression
    }
    return tail.dataset.address + (query.size ? '?' + query : '');
  }

  function say(text) {
    if (state.textContent !== text) state.textContent = text;
  }

  function listen() {
    clearTimeout(retry);
    if (source) source.close();
    const from = address();
    const here = source = new EventSource(from + (from.includes('?') ? '&' : '?') + 'last=' + lastEvents);
    let begins = true; // and not goes on, where the connection was lost: then the browser says behind which event
    source.onopen = function () {
      if (here !== source) return;
      if (begins) clear();
      begins = false;
      leader = '';
      tail.dataset.from = from;
      wait = 1000;
      tell();
    };
    source.onmessage = function (e) {
      if (here !== source) return;
      take(e.data);
      if (e.data.includes('"type":"bridge-')) schedule(100); // what is shown above has changed
    };
    source.addEventListener('lost', function (e) {
      if (here !== source) return;
      take(Number(JSON.parse(e.data).lost));
    });
    source.addEventListener('standby', function (e) {
      if (here !== source) return;
      leader = JSON.parse(e.data).leader;
      tell();
    });
    source.onerror = function () {
      if (here !== source) return;
      say('Not connected; trying again.');
      if (source.readyState !== EventSource.CLOSED) return; // the browser does it
      wait = Math.min(wait * 2, 30000);
      retry = setTimeout(listen, wait);
    };
  }

  function clear() {
    rows.replaceChildren();
    waiting = [];
    skipped = shown = 0;
  }

  function leave(why) {
    clearTimeout(retry);
    if (source) source.close();
    source = null;
    say(why);
  }

  // take keeps what came until it can be shown. A page in the background is not drawn, so there is a limit.
  function take(what) {
    waiting.push(what);
    if (waiting.length > maxRows) {
      const first = waiting.shift();
      skipped += typeof first === 'number' ? first : 1;
    }
    if (paused) tell(); else draw();
  }

  function tell() {
    if (!source) return;
    tail.dataset.shown = shown;
    const of = leader ? 'This daemon stands by: the events are those of ' + leader + '. ' : '';
    if (paused) say(of + 'Paused. ' + (waiting.length + skipped) + ' new.');
    else say(of + (shown ? 'Listening. ' + shown + (shown === 1 ? ' event' : ' events') + ' so far; the newest ' + maxRows + ' are kept.' : 'Listening. Events appear here as they are stored.'));
  }

  function draw() {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(function () {
      drawing = false;
      if (paused) return;
      const fresh = document.createDocumentFragment();
      for (let i = waiting.length - 1; i >= 0; i--) {
        fresh.appendChild(typeof waiting[i] === 'number' ? gap(waiting[i]) : row(waiting[i]));
      }
      if (skipped) fresh.appendChild(gap(skipped));
      shown += skipped;
      for (const one of waiting) shown += typeof one === 'number' ? one : 1;
      waiting = [];
      skipped = 0;
      rows.prepend(fresh);
      while (rows.childElementCount > maxRows) rows.lastElementChild.remove();
      tell();
    });
  }

  function element(name, className, text) {
    const e = document.createElement(name);
    if (className) e.className = className;
    if (text !== undefined) e.textContent = harmless(text);
    return e;
  }

  // harmless replaces characters that are not seen but change how others look, as the daemon does in what it makes.
  function harmless(text) {
    return String(text).replace(/[\p{Cf}\p{Zl}\p{Zp}\x00-\x08\x0b-\x1f\x7f-\x9f]/gu, '\ufffd');
  }

  function gap(n) {
    if (!n) return element('li', 'gap', 'how many events came before is not known'); // they are not stored any more
    return element('li', 'gap', n + (n === 1 ? ' event' : ' events') + ' came faster than they could be shown');
  }

  function row(data) {
    const li = element('li');
    let event;
    try {
      event = JSON.parse(data);
    } catch (problem) {
      event = {summary: data.slice(0, 300), severity: 'info', type: 'not JSON', hmc: '', time: ''};
    }
    const box = element('details');
    const head = element('summary');
    const time = element('time', '', String(event.time).slice(11, 23));
    time.dateTime = event.time;
    time.title = event.time;
    head.append(time, element('span', 'severity ' + (/^[a-z]+$/.test(event.severity) ? event.severity : ''), event.severity), element('span', 'type', event.type),
      element('span', 'hmc', event.hmc), what(event));
    box.append(head);
    li.append(box);
    details.set(box, data.slice(0, maxDetail) + (data.length > maxDetail ? '\n… ' + (data.length - maxDetail) + ' more characters' : ''));
    return li;
  }

  // what says what an event is about, and marks what nobody needs to act on again.
  function what(event) {
    const e = element('span', 'what', event.summary || '');
    const marks = [event.repeat ? 'repeated' : '', event.planned ? 'planned' : '', event.origin === 'refresh' ? 'replayed by the HMC' : ''].filter(Boolean);
    if (marks.length) e.append(' ', element('span', 'again', '(' + marks.join(', ') + ')'));
    return e;
  }

  // An event's detail is made when it is asked for, and goes when it is closed.
  rows.addEventListener('toggle', function (e) {
    const box = e.target;
    const old = box.querySelector('pre');
    if (old) old.remove();
    if (!box.open) return;
    let text = details.get(box) || '';
    try {
      text = JSON.stringify(JSON.parse(text), null, 2);
    } catch (problem) {
      // it was cut
    }
    box.append(element('pre', '', text));
  }, true);

  pauseButton.addEventListener('click', function () {
    paused = !paused;
    pauseButton.setAttribute('aria-pressed', String(paused));
    pauseButton.textContent = paused ? 'Go on' : 'Pause';
    tell();
    if (!paused) draw();
  });
  document.getElementById('tail-clear').addEventListener('click', function () {
    clear();
    tell();
  });
  let changing = 0;
  const changed = function () {
    clearTimeout(changing);
    changing = setTimeout(listen, 250);
  };
  filter.addEventListener('input', changed);
  filter.addEventListener('submit', function (e) { e.preventDefault(); changed(); });

  // A browser has few connections for one daemon: a page that nobody sees gives its own back.
  document.addEventListener('visibilitychange', function () {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(function () { leave('Not listening: the page was in the background.'); }, hiddenFor);
    else if (!source) listen();
  });
  window.addEventListener('pagehide', function () { leave('Not listening.'); });
  window.addEventListener('pageshow', function (e) { if (e.persisted) listen(); });
  listen();
})();
