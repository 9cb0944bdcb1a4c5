#!/usr/bin/env node
// A parent whose worker cannot outlive it: parent.mjs COMMAND [ARGUMENT...]
//
// The worker, and whatever it starts, is held by pitvisor run. Nobody but this process
// has the other end of descriptor 3. When it ends, by SIGKILL or otherwise, the kernel
// closes that end, pitvisor reads the end of the file, and ends the whole run.

import { spawn } from "node:child_process";
import { constants } from "node:os";

const run = spawn(
  "pitvisor",
  ["run", "--lifeline-fd", "3", "--kill-after", "2s", "--", ...process.argv.slice(2)],
  { stdio: ["inherit", "inherit", "inherit", "pipe"] }, // the last one is the lifeline
);

run.on("error", (error) => {
  console.error(`parent.mjs: ${error.message}`);
  process.exit(125);
});
run.on("exit", (code, signal) => {
  process.exit(code ?? 128 + constants.signals[signal]);
});
