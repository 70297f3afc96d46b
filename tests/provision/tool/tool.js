#!/usr/bin/env node
const os = require("os");
console.log([...process.argv.slice(2), os.userInfo().username, process.version].join(" "));
