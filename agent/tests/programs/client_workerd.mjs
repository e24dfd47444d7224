// fetch of workerd, run by `workerd test`: what to do is in the variable PLAN, as in client_fetch.mjs.
export default {
  async test(controller, env) {
    const plan = JSON.parse(env.PLAN);
    const answer = await fetch(plan.url, { method: plan.method, headers: plan.headers });
    await answer.text();
    console.log(answer.status);
  },
};
