// Asks the demo model the same question in three ways through the official JavaScript client; prints what it said.
import { Ollama } from "ollama";

const [host, question] = process.argv.slice(1);
const client = new Ollama({ host });
const messages = [{ role: "user", content: question }];
const options = { temperature: 0 };

const whole = await client.chat({ model: "demo", messages, options });
let pieces = "";
let reason = "";
for await (const part of await client.chat({ model: "demo", messages, options, stream: true })) {
  pieces += part.message.content;
  reason = part.done_reason ?? reason;
}
const generated = await client.generate({ model: "demo", prompt: question, options });
console.log(JSON.stringify({ whole: whole.message.content, pieces, generated: generated.response, reason }));
