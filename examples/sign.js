// Sign a config, as a page's own server does: `node sign.js API_KEY [ACCESS_TOKEN]`.
// The secret is TERMINAL_SERVER_SIGNING_SECRET of the environment. What is printed goes into the page, which sends
// both texts as they are: the signature is over the exact bytes of `config`.
const { createHmac } = require("node:crypto");

function sign(secret, values) {
  const config = JSON.stringify({ ...values, timestamp: Date.now() });
  return { config, signature: createHmac("sha256", secret).update(config, "utf8").digest("hex") };
}

if (require.main === module) {
  const [apiKey, accessToken] = process.argv.slice(2);
  console.log(JSON.stringify(sign(process.env.TERMINAL_SERVER_SIGNING_SECRET, { apiKey, accessToken })));
}

module.exports = { sign };
