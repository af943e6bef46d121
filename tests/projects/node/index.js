const ms = require('ms');

console.log(`Hello from Node, ${ms(60000, { long: true })}`);
