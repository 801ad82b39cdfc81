"use strict";

// How the answers of a tree were graded. Files of earlier versions do not say it: `tree.grading` is null or missing.
(function (treepo) {
  /** A verdict as text, and the kind by which it is coloured: "right", "wrong", "lost" (not graded). */
  function verdict(correct, outcome) {
    if (outcome !== "graded") return { text: outcome, kind: "lost" };
    if (correct === 1) return { text: "right", kind: "right" };
    return { text: correct ? `${treepo.figure(correct)} of 1` : "wrong", kind: "wrong" };
  }

  /** What is known of a leaf, by its place among the leaves: {extracted, verdict, parts}; null if nothing is. */
  function gradeOf(tree, place) {
    const { grading } = tree;
    if (!grading || place === undefined) return null;
    return {
      extracted: grading.extracted[place],
      verdict: verdict(grading.correct[place], grading.outcomes[place]),
      parts: Object.entries(grading.parts).map(([name, values]) => [name, values[place]]),
    };
  }

  /** Whether a verifier judged the answers of a tree; without one only rewards say what they are worth. */
  function isVerified({ grading }) {
    return Boolean(grading?.outcomes.some((outcome) => outcome !== "unverified"));
  }

  /** "correct 1, overlong −0.25"; empty for a reward of one part, which is the reward. */
  function partsText(parts) {
    if (parts.length < 2) return "";
    return parts.map(([name, value]) => `${treepo.oneLine(name, 40)} ${treepo.figure(value)}`).join(", ");
  }

  /** What a problem is called: its question, else the beginning of its prompt. */
  function questionOf(tree, length) {
    return treepo.oneLine((tree.grading?.question ?? tree.prompt).trim() || tree.problem, length);
  }

  /** Where else a run has trees of the same problem, by step: [{step, tree}], the given one included. */
  function sameProblem(run, problem) {
    return run.trees.steps.flatMap(({ step, trees }) => {
      const tree = trees.findIndex((own) => own.problem === problem);
      return tree < 0 ? [] : [{ step, tree }];
    });
  }

  Object.assign(treepo, { verdict, gradeOf, isVerified, partsText, questionOf, sameProblem });
})((globalThis.treepo ??= {}));
