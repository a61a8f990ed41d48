// Starts fauxqs for the tests: `node server.mjs PORT [DATA_DIRECTORY]`. Four things differ from its own command:
// - it listens on loopback only, where its own command listens everywhere;
// - it takes characters beyond U+FFFF (emoji), as SQS does;
// - with HANGUPS=noticed, a long poll whose connection was closed takes no messages. Without, they go to it and are
//   hidden for the visibility timeout, as people report of SQS itself;
// - with a data directory, a message whose visibility timeout is set to 0 is there again. fauxqs takes it out of those that
//   are handed out, writes NULL for its number of receives, which its own table refuses, answers 500, and has it nowhere
//   until it is started again.
import { AsyncLocalStorage } from "node:async_hooks";
import net from "node:net";
import { PersistenceManager } from "./node_modules/fauxqs/dist/persistence.js";
import { startFauxqs } from "./node_modules/fauxqs/dist/app.js";
import { SqsQueue } from "./node_modules/fauxqs/dist/sqs/sqsStore.js";
import { SqsRouter } from "./node_modules/fauxqs/dist/sqs/sqsRouter.js";
import { INVALID_MESSAGE_BODY_CHAR } from "./node_modules/fauxqs/dist/sqs/sqsTypes.js";

const [port, dataDir] = process.argv.slice(2);

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (options, ...rest) {
  return listen.call(this, { ...options, host: "127.0.0.1" }, ...rest);
};

const illegal = /[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\u{10000}-\u{10FFFF}]/u;
INVALID_MESSAGE_BODY_CHAR.test = (text) => illegal.test(text);

PersistenceManager.prototype.updateMessageReady = function (messageId) {
  const statement = "UPDATE sqs_messages SET receipt_handle = NULL, visibility_deadline = NULL WHERE message_id = ?";
  this.db.prepare(statement).run(messageId);
};

if (process.env.HANGUPS === "noticed") {
  const current = new AsyncLocalStorage();
  const handle = SqsRouter.prototype.handle;
  SqsRouter.prototype.handle = function (request, reply) {
    return current.run(request.raw.socket, () => handle.call(this, request, reply));
  };
  const dequeue = SqsQueue.prototype.dequeue;
  SqsQueue.prototype.dequeue = function (...args) {
    if (!current.getStore()?.destroyed) return dequeue.apply(this, args);
    this.notifyWaiters(); // those that woke up together with this one get what it leaves
    return [];
  };
}

await startFauxqs({ port: Number(port), logger: false, ...(dataDir ? { dataDir } : {}) });
