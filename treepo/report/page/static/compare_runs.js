"use strict";

(function (treepo) {
  /** What token sequences share. A token is shared if it lies in a run of at least `minLength` tokens that also occurs
   * in another sequence, or in a run that both begin with. Shared tokens are told apart by classes: those that stand at
   * the same place of such runs are one.
   * A block is a stretch of classes that always follow each other, so its tokens are the same wherever it occurs.
   *
   * Returns {parts, blocks}: parts[s] cuts sequence s into {start, end, block} with block null where nothing is shared;
   * blocks[b] is {length, occurrences: [{sequence, start}]}. Time grows with tokens times sequences. */
  function sharedBlocks(sequences, minLength) {
    const bases = [];
    let total = 0;
    for (const sequence of sequences) {
      bases.push(total);
      total += sequence.length;
    }
    const classes = disjointSets(total);
    const isShared = new Uint8Array(total);
    linkPrefixes(sequences, bases, classes, isShared);
    const automata = sequences.map(suffixAutomaton);
    sequences.forEach((sequence, s) => {
      const longest = longestMatches(sequence, s, automata);
      linkMatches(longest, minLength, bases, s, classes, isShared);
    });
    return cut(sequences, bases, classes, isShared);
  }

  /** Join what two sequences begin with. */
  function linkPrefixes(sequences, bases, classes, isShared) {
    sequences.forEach((one, i) => {
      for (let j = 0; j < i; j++) {
        const length = commonPrefix([one, sequences[j]]);
        for (let at = 0; at < length; at++) {
          isShared[bases[i] + at] = isShared[bases[j] + at] = 1;
          classes.join(bases[i] + at, bases[j] + at);
        }
      }
    });
  }

  /** States of the suffix automaton of a sequence: transitions, suffix links, lengths and a first end. */
  function suffixAutomaton(sequence) {
    const states = { next: [new Map()], link: [-1], length: [0], end: [-1] };
    let last = 0;
    sequence.forEach((token, position) => (last = extend(states, last, token, position)));
    return states;
  }

  function extend({ next, link, length, end }, last, token, position) {
    const add = (transitions, size, suffix, first) => {
      next.push(transitions);
      length.push(size);
      link.push(suffix);
      end.push(first);
      return next.length - 1;
    };
    const state = add(new Map(), length[last] + 1, 0, position);
    let at = last;
    for (; at >= 0 && !next[at].has(token); at = link[at]) next[at].set(token, state);
    if (at < 0) return state;
    const target = next[at].get(token);
    if (length[at] + 1 === length[target]) {
      link[state] = target;
      return state;
    }
    const clone = add(new Map(next[target]), length[at] + 1, link[target], end[target]);
    for (; at >= 0 && next[at].get(token) === target; at = link[at]) next[at].set(token, clone);
    link[target] = link[state] = clone;
    return state;
  }

  /** For each position, the longest run ending there that another sequence has: its length, and one place there. */
  function longestMatches(sequence, own, automata) {
    const longest = { length: new Int32Array(sequence.length), other: new Int32Array(sequence.length), end: [] };
    automata.forEach(({ next, link, length, end }, other) => {
      if (other === own) return;
      let [state, matched] = [0, 0];
      sequence.forEach((token, position) => {
        while (state && !next[state].has(token)) {
          state = link[state];
          matched = length[state];
        }
        if (next[state].has(token)) {
          state = next[state].get(token);
          matched++;
        }
        if (matched <= longest.length[position]) return;
        longest.length[position] = matched;
        longest.other[position] = other;
        longest.end[position] = end[state];
      });
    });
    return longest;
  }

  /** Join each shared token with one of the other sequence: the runs that no longer run contains, first come first. */
  function linkMatches({ length, other, end }, minLength, bases, own, classes, isShared) {
    let linked = 0;
    for (let last = 0; last < length.length; last++) {
      if (length[last] < minLength || length[last + 1] === length[last] + 1) continue;
      for (let at = Math.max(linked, last - length[last] + 1); at <= last; at++) {
        isShared[bases[own] + at] = 1;
        classes.join(bases[own] + at, bases[other[last]] + end[last] - (last - at));
      }
      linked = last + 1;
    }
  }

  function disjointSets(size) {
    const parent = Int32Array.from({ length: size }, (_, i) => i);
    const find = (i) => {
      while (parent[i] !== i) i = parent[i] = parent[parent[i]];
      return i;
    };
    const join = (i, j) => (parent[Math.max(find(i), find(j))] = Math.min(find(i), find(j)));
    return { find, join };
  }

  /** Cut each sequence where a class is not always followed, or not always preceded, by the same one. */
  function cut(sequences, bases, classes, isShared) {
    const label = (s, at) => {
      const token = bases[s] + at;
      return at >= 0 && at < sequences[s].length && isShared[token] ? classes.find(token) : -1;
    };
    const [before, after] = [new Map(), new Map()];
    const note = (known, name, neighbour) =>
      known.set(name, (known.get(name) ?? neighbour) === neighbour ? neighbour : -2);
    sequences.forEach((sequence, s) => {
      for (let at = 0; at < sequence.length; at++) {
        if (label(s, at) < 0) continue;
        note(before, label(s, at), label(s, at - 1));
        note(after, label(s, at), label(s, at + 1));
      }
    });
    const isInside = (s, at) =>
      after.get(label(s, at - 1)) === label(s, at) && before.get(label(s, at)) === label(s, at - 1);
    return collect(sequences, label, isInside);
  }

  function collect(sequences, label, isInside) {
    const [blocks, numbers] = [[], new Map()];
    const parts = sequences.map((sequence, s) => {
      const own = [];
      for (let at = 0; at < sequence.length; at++) {
        const name = label(s, at);
        const goesOn = at > 0 && (name < 0 ? label(s, at - 1) < 0 : isInside(s, at));
        if (goesOn) own.at(-1).end++;
        else own.push({ start: at, end: at + 1, block: name < 0 ? null : numberOf(numbers, name) });
      }
      for (const { start, end, block } of own) {
        if (block === null) continue;
        blocks[block] ??= { length: end - start, occurrences: [] };
        blocks[block].occurrences.push({ sequence: s, start });
      }
      return own;
    });
    return { parts, blocks };
  }

  function numberOf(numbers, name) {
    if (!numbers.has(name)) numbers.set(name, numbers.size);
    return numbers.get(name);
  }

  /** The share of a sequence's tokens that is shared, by its parts. */
  function sharedShare(parts) {
    const count = (chosen) => chosen.reduce((sum, part) => sum + part.end - part.start, 0);
    return parts.length ? count(parts.filter((part) => part.block !== null)) / count(parts) : 0;
  }

  /** How many tokens all sequences begin with. */
  function commonPrefix(sequences) {
    let length = 0;
    const [first] = sequences;
    while (length < first.length && sequences.every((own) => own[length] === first[length])) length++;
    return length;
  }

  /** Sequences of indices of pieces -> sequences in which equal numbers are equal tokens. A token without text, part of
   * a character or of a text that is not divided, is told by the texts before and after it. */
  function comparable(sequences, pieces) {
    const names = new Map();
    return sequences.map((ids) => {
      const after = new Array(ids.length);
      for (let i = ids.length - 1; i >= 0; i--) after[i] = pieces[ids[i]] === "" ? (after[i + 1] ?? "end") : ids[i];
      let [before, distance] = ["start", 0];
      return ids.map((id, i) => {
        distance++;
        if (pieces[id] === "") return -1 - numberOf(names, `${before} ${distance} ${after[i]}`);
        [before, distance] = [id, 0];
        return id;
      });
    });
  }

  Object.assign(treepo, { sharedBlocks, sharedShare, commonPrefix, comparable });
})((globalThis.treepo ??= {}));
