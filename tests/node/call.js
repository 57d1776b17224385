// Calls every kind of method with stubs made from the proto file alone, and prints what came as one JSON object.
//
//     node call.js HOST:PORT FOLDER_OF_PROTO < photo.jpg
'use strict';

const { readFileSync } = require('node:fs');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

// grpc.health.v1 and google.rpc, as much of them as is needed.
const HEALTH = {
  nested: {
    grpc: { nested: { health: { nested: { v1: { nested: {
      HealthCheckRequest: { fields: { service: { type: 'string', id: 1 } } },
      HealthCheckResponse: { fields: { status: { type: 'ServingStatus', id: 1 } } },
      ServingStatus: { values: { UNKNOWN: 0, SERVING: 1, NOT_SERVING: 2, SERVICE_UNKNOWN: 3 } },
      Health: { methods: { Check: { requestType: 'HealthCheckRequest', responseType: 'HealthCheckResponse' } } },
    } } } } } },
  },
};
const DETAILS = {
  nested: {
    Any: { fields: { type_url: { type: 'string', id: 1 }, value: { type: 'bytes', id: 2 } } },
    Status: {
      fields: {
        code: { type: 'int32', id: 1 },
        message: { type: 'string', id: 2 },
        details: { rule: 'repeated', type: 'Any', id: 3 },
      },
    },
    ErrorInfo: { fields: { reason: { type: 'string', id: 1 }, domain: { type: 'string', id: 2 } } },
  },
};

const [target, protos] = process.argv.slice(2);
const image = readFileSync(0);
const options = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
const own = loader.loadSync('captioner/v1/captioner.proto', { ...options, includeDirs: [protos] });
const { CaptionService } = grpc.loadPackageDefinition(own).captioner.v1;
const { Health } = grpc.loadPackageDefinition(loader.fromJSON(HEALTH, options)).grpc.health.v1;
const channel = new CaptionService(target, grpc.credentials.createInsecure());
const health = new Health(target, grpc.credentials.createInsecure());

const soon = () => ({ deadline: Date.now() + 30000 });

/** The response of a unary call. */
const call = (client, method, request) =>
  new Promise((resolve, reject) =>
    client[method](request, new grpc.Metadata(), soon(), (error, response) => (error ? reject(error) : resolve(response))),
  );

/** Code, reason and domain of a call that must fail. */
async function failure(method, request) {
  try {
    await call(channel, method, request);
  } catch (error) {
    const details = protobuf.Root.fromJSON(DETAILS);
    const status = details.lookupType('Status').decode(error.metadata.get('grpc-status-details-bin')[0]);
    const info = status.details.find((detail) => detail.type_url.endsWith('/google.rpc.ErrorInfo'));
    const { reason, domain } = details.lookupType('ErrorInfo').decode(info.value);
    return { code: grpc.status[error.code], reason, domain, request_id: error.metadata.get('x-request-id')[0] };
  }
  throw new Error(`${method} did not fail`);
}

/** The outcomes of a stream of pictures by their ids. */
const stream = (images) =>
  new Promise((resolve, reject) => {
    const found = {};
    const both = channel.StreamCaptionImages(new grpc.Metadata(), soon());
    both.on('data', ({ id, response, error }) => {
      found[id] = response ? response.captions[0].text : grpc.status[error.code];
    });
    both.on('error', reject);
    both.on('end', () => resolve(found));
    for (const [id, bytes] of Object.entries(images)) both.write({ id, request: { image: bytes } });
    both.end();
  });

async function main() {
  const { model } = await call(channel, 'GetModel', {});
  const question = { image, question: 'what is the colour', top: 2, include_attention: true };
  const found = {
    health: (await call(health, 'Check', { service: 'captioner.v1.CaptionService' })).status,
    model,
    captions: (await call(channel, 'CaptionImage', { image, captions: 2 })).captions,
    answered: model.answers_questions ? await call(channel, 'AnswerQuestion', question) : null,
    stream: await stream({ good: image, bad: Buffer.from('no picture'), again: image }),
    bad_picture: await failure('CaptionImage', { image: image.subarray(0, 100) }),
    unknown_model: await failure('GetModel', { model: 'another' }),
  };
  channel.close();
  health.close();
  console.log(JSON.stringify(found));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
