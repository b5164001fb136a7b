// What the page says, in English and Chinese.

export const WORDS = {
  en: {
    skip: "Skip to the five questions", nav: "Systems", h1: "Ask what it sees. See why it says so.",
    intro: "Five systems that tie vision to language. Each wants one thing from you, and answers with what it went by.",
    
    foot: "Runs on your machine. Nothing you put here leaves it.",
    dark: "Dark", light: "Light", auto: "Auto", theme: "Colours: {0}. Press to change.", langTo: "Switch to Chinese",
    w_intent: "This model knows drawn scenes only. In a real photo it sees shapes that it has no words for.", w_retrieval: "This model knows drawn people only.", w_skeleton: "This model knows computed movements only.", w_points: "This model knows drawn rooms only.", w_tokenizer: "This model knows drawn scenes only.", sampleN: "sample {0}",
    ready: "ready", absent: "not loaded", loading: "loading",
    busy: "Working… {0} s", cancel: "Cancel", failed: "That did not work", again: "Try again", dismiss: "Dismiss",
    absentTitle: "This model is not loaded", absentText: "Start the server with a run of it, or train one first:", check: "Check again",
    code: "The same from a terminal", offline: "The server does not answer. Is sightword serve still running?",
    tries: "Try", go: "Ask", all: "All {0}", fewer: "Fewer", 
    t_intent: ["photo", "words on it"], l_intent: "Why was this posted? Every patch becomes a word, and a score is an exact sum of words. Strike one out and see.",
    drop: "Drop a photo, or choose one", dropSub: "JPEG, PNG or WebP, up to {0} MB", 
    shown: "What is shown on the photo", v_photo: "photo", v_coco: "things", v_places: "places", v_actions: "actions", v_feel: "feelings", v_ava: "styles", v_why: "why", intents: "Why it may have been posted",
    stageIntent: "Photo of {0} by {1} patches. Arrow keys move from patch to patch.", here: "Patch row {0}, column {1}", hereHint: "Point at a patch, or use the arrow keys.",
    patches: "{0} patches", patch1: "1 patch", bias: "of any picture", struck: "{0} struck out: {1}", sum: "sum", score: "score", over: "over the threshold", under: "under the threshold", reset: "Undo strikes",
    forit: "positive contribution", againstit: "negative contribution",
    t_retrieval: ["sentence", "people"], l_retrieval: "Describe somebody. Every result shows which of your words carried it.",
    p_retrieval: "a woman in a red coat with a white handbag", find: "Find", 
    nofit: "Nothing fits well", nofitText: "These are the nearest of {0} pictures, and none is near. Words it never learnt: {1}.", nofitText2: "These are the nearest of {0} pictures, and none is near.",
    carriedBy: "carried by", nothing: "no single word", saidFor: "What each word did for result {0}", saidHint: "Press a word to keep only results that it helped.", good: "above {0}", left: "{0} of {1} results", noneLeft: "No result passes these filters.", clear: "Clear filters",
    t_tokenizer: ["image", "codes", "image"], l_tokenizer: "A picture as a grid of codes, painted back from the codes alone. Change a code and see what it was worth.",
    compare: "compare", codesV: "codes", paint: "paint", slide: "How much of the original is shown", orig: "original", back: "from codes",
    bpp: "bits a pixel", bppOf: "of 24", grid: "codes", used: "different codes", usedOf: "of {0}", psnr: "fidelity", brush: "Brush", map: "Code map", mapOf: "{0} by {1} codes, each in a colour of its own", brushHint: "Pick a code, then paint on the picture. Arrow keys move, space paints.", size: "Size", undo: "Undo all", changed: "{0} codes changed", 
    stageTok: "Picture. Arrow keys move a cursor, space paints.", codeN: "code {0}, {1} times here",
    t_skeleton: ["clip", "name"], l_skeleton: "What is it doing? Names are compared with every moment, and the moments that count weigh more.",
    clip: "clip {0}", upload: "Your own key points (.npz, .json)", play: "Play", pause: "Pause", time: "Moment", weight: "Weight of each moment", even: "dashed: if all weighed alike", moment: "moment {0} of {1}: weight {2} %",
    names: "What it may be", own: "Add your own words", ownP: "e.g. raising one arm", add: "Add", remove: "Remove {0}", yours: "yours", lside: "left side", rside: "right side", prob: "Probabilities are shares among the names listed.",
    t_points: ["scene", "answer"], l_points: "Ask a room for things. Turn it; what was found is boxed, and the pictures that saw it are lit.",
    e_intent: "Drop a photo to read the words on it.", e_retrieval: "Describe somebody: clothes, colours, a bag.", e_tokenizer: "Drop a picture to encode it.", e_skeleton: "Choose a clip of key points.", e_points: "Ask for things, with commas.", p_points: "a tv, a bed, a unicorn", found: "Found", notHere: "not here", cams: "Cameras", cam: "camera {0}", stagePts: "Room of {0} points. Arrow keys turn it, plus and minus zoom.", turn: "Drag or arrow keys to turn, scroll or + − to zoom", resetView: "Reset view", colour: "Colour by", real: "photo", answerC: "answer", 
    saidDone: "Done.",
    h1: "Ask what it sees. See why it says so.", failedTitle: "This model could not be loaded", loadingTitle: "This model is loading", loadingText: "The card opens by itself when it is ready.", tokenTitle: "This server asks for a token", tokenText: "It is the token= that the server was started with.", tokenSend: "Open", docs: "The requests behind this page", baseline: "This model has no codebooks, so there are no words to show: only scores.", gallery: "Search in", own_gallery: "your pictures", addPeople: "Your own pictures of people", unsure: "unsure", calibrated: "How the threshold was chosen: {0}.", aboveLine: "above the threshold", decoding: "painting again from the codes…", decoded: "painted from the changed codes", noBook: "The codebook is too large to show every code.", noWeights: "This model weighs all moments alike.", noOwn: "This model has fixed classes: it takes no words of your own.", size2: "size of the images", height: "height", width: "width", unknownW: "Words it never learnt: {0}.", itis: "It is “{0}”.", wrong: "It is “{0}”: the model is wrong here.", scene: "Scene", unsureHere: "not sure it is here", unsureWhy: "best fit {0}, needed {1}", unknownHere: "the model never learnt this word", nearest: "the nearest places", objects: "objects", scoreC: "score", noGl: "This browser has no WebGL2, so the room is not drawn. What was found is beside it.", sizeM: "{0} × {1} × {2} m", fit: "best fit {0}", sure: "{0} % sure", few: "the {0} points that are sent, of {1}", busyShort: "busy", noPeople: "No gallery is loaded. Add pictures of people, or start the server with gallery=.", noClips: "Choose a file of key points, or start the server with clips=.", noScenes: "Start the server with scenes= to ask about a room.", noPhotos: "Drop a photo to begin.", 
  },
  zh: {
    skip: "跳到五个问题", nav: "系统", h1: "问它看见了什么，看它凭什么这样说。",
    intro: "五个把视觉与语言相连的系统。每个只向你要一样东西，并说明答案从何而来。",
    
    foot: "全部在你的机器上运行，你放进来的内容不会离开这里。",
    dark: "深色", light: "浅色", auto: "自动", theme: "配色：{0}。按下切换。", langTo: "切换到英文",
    w_intent: "此模型只认识画出来的场景；真实照片里的许多形状，它没有对应的词。", w_retrieval: "此模型只认识画出来的人。", w_skeleton: "此模型只认识计算生成的动作。", w_points: "此模型只认识画出来的房间。", w_tokenizer: "此模型只认识画出来的场景。", sampleN: "示例 {0}",
    ready: "就绪", absent: "未加载", loading: "加载中",
    busy: "处理中… {0} 秒", cancel: "取消", failed: "没有成功", again: "重试", dismiss: "关闭",
    absentTitle: "此模型尚未加载", absentText: "请在启动服务器时给出一个训练结果，或先训练一个：", check: "再检查一次",
    code: "在终端里做同样的事", offline: "服务器没有回应。sightword serve 还在运行吗？",
    tries: "试试", go: "提问", all: "全部 {0} 个", fewer: "收起", 
    t_intent: ["照片", "照片上的词"], l_intent: "为什么发这张照片？每个图块变成一个词，分数正好是这些词之和。划掉一个词，看看会怎样。",
    drop: "把照片拖到这里，或点击选择", dropSub: "JPEG、PNG 或 WebP，不超过 {0} MB", 
    shown: "照片上显示什么", v_photo: "照片", v_coco: "物体", v_places: "地点", v_actions: "动作", v_feel: "情感", v_ava: "风格", v_why: "依据", intents: "可能的发布意图",
    stageIntent: "照片，{0} 行 {1} 列图块。用方向键移动。", here: "图块：第 {0} 行，第 {1} 列", hereHint: "指向一个图块，或使用方向键。",
    patches: "{0} 个图块", patch1: "1 个图块", bias: "任何照片都有", struck: "划掉 {0} 个词：{1}", sum: "总和", score: "分数", over: "高于阈值", under: "低于阈值", reset: "恢复全部",
    forit: "正贡献", againstit: "负贡献",
    t_retrieval: ["句子", "人"], l_retrieval: "描述一个人。每个结果都标出是哪些词起了作用。",
    p_retrieval: "a woman in a red coat with a white handbag", find: "查找", 
    nofit: "没有合适的结果", nofitText: "以下是 {0} 张图中最接近的，但都不够近。它没学过的词：{1}。", nofitText2: "以下是 {0} 张图中最接近的，但都不够近。",
    carriedBy: "起作用的词", nothing: "没有单独起作用的词", saidFor: "每个词对第 {0} 个结果的作用", saidHint: "按一个词，只保留它有帮助的结果。", good: "高于 {0}", left: "{1} 个结果中的 {0} 个", noneLeft: "没有结果符合这些条件。", clear: "清除条件",
    t_tokenizer: ["图像", "码字", "图像"], l_tokenizer: "把图像变成一格格码字，再只凭码字画回来。改一个码字，看它值多少。",
    compare: "对比", codesV: "码字", paint: "涂改", slide: "显示多少原图", orig: "原图", back: "由码字还原",
    bpp: "每像素比特", bppOf: "原为 24", grid: "码字网格", used: "用到的码字", usedOf: "共 {0}", psnr: "保真度", brush: "画笔", map: "码字图", mapOf: "{0} × {1} 个码字，各有颜色", brushHint: "选一个码字，在图上涂。方向键移动，空格涂改。", size: "大小", undo: "全部撤销", changed: "已改 {0} 个码字", 
    stageTok: "图片。方向键移动光标，空格涂改。", codeN: "码字 {0}，此处出现 {1} 次",
    t_skeleton: ["片段", "名称"], l_skeleton: "在做什么动作？名称与每个时刻相比较，重要的时刻权重更大。",
    clip: "片段 {0}", upload: "你自己的关键点（.npz、.json）", play: "播放", pause: "暂停", time: "时刻", weight: "各时刻的权重", even: "虚线：若权重相同", moment: "第 {0} 个时刻，共 {1} 个：权重 {2} %",
    names: "可能的动作", own: "加入自己的词", ownP: "例如 raising one arm", add: "加入", remove: "移除 {0}", yours: "自加", lside: "左侧", rside: "右侧", prob: "概率在所列名称之间分配。",
    t_points: ["场景", "答案"], l_points: "向房间询问物体。可以转动；找到的会框出，看见它的相机会亮起。",
    e_intent: "拖入一张照片，读出上面的词。", e_retrieval: "描述一个人：衣服、颜色、包。此模型读英文。", e_tokenizer: "拖入一张图片进行编码。", e_skeleton: "选择一个关键点片段。", e_points: "输入要找的物体，用逗号分隔。", p_points: "a tv, a bed, a unicorn", found: "找到的", notHere: "这里没有", cams: "相机", cam: "相机 {0}", stagePts: "房间，{0} 个点。方向键转动，加减键缩放。", turn: "拖动或方向键转动，滚轮或 + − 缩放", resetView: "复位", colour: "着色", real: "照片", answerC: "答案", 
    saidDone: "完成。",
    failedTitle: "此模型无法加载", loadingTitle: "此模型正在加载", loadingText: "就绪后卡片会自动打开。", tokenTitle: "此服务器需要令牌（token）", tokenText: "即启动服务器时给出的 token=。", tokenSend: "打开", docs: "此页背后的请求", baseline: "此模型没有码本，因此没有词可显示，只有分数。", gallery: "图库", own_gallery: "你的图片", addPeople: "你自己的人物图片", unsure: "不确定", calibrated: "阈值的来历：{0}。", aboveLine: "高于阈值", decoding: "正在由码字重新绘制…", decoded: "已由改动后的码字重新绘制", noBook: "码本太大，无法逐个显示。", noWeights: "此模型对所有时刻一视同仁。", noOwn: "此模型的类别是固定的，不能加入自己的词。", size2: "图像尺寸", height: "高", width: "宽", unknownW: "它没学过的词：{0}。", itis: "实际是“{0}”。", wrong: "实际是“{0}”：模型在这里错了。", scene: "场景", unsureHere: "不确定这里是否有", unsureWhy: "最佳匹配 {0}，需要 {1}", unknownHere: "模型没学过这个词", nearest: "最接近的位置", objects: "物体", scoreC: "分数", noGl: "此浏览器没有 WebGL2，无法绘制房间；找到的物体列在旁边。", sizeM: "{0} × {1} × {2} 米", fit: "最佳匹配 {0}", sure: "把握 {0} %", few: "发送了 {1} 个点中的 {0} 个", busyShort: "忙", noPeople: "没有加载图库。请加入人物图片，或在启动服务器时给出 gallery=。", noClips: "请选择一个关键点文件，或在启动服务器时给出 clips=。", noScenes: "请在启动服务器时给出 scenes=，再向房间提问。", noPhotos: "拖入一张照片开始。", 
  },
};
// Names of classes are the models' own words; in Chinese the usual ones get a gloss.
const GLOSS = { person: "人", dog: "狗", car: "汽车", surfboard: "冲浪板", chair: "椅子", bed: "床", tv: "电视", "potted plant": "盆栽", bedroom: "卧室", "home office": "书房", kitchen: "厨房", street: "街道", beach: "海滩", "forest path": "林间小路", "holding an umbrella": "打伞", "playing the guitar": "弹吉他", "pushing a cart": "推车", "riding a horse": "骑马", "raising both arms": "举起双臂", "lowering both arms": "放下双臂", "sitting down": "坐下", "standing up": "站起", "waving one hand": "挥手", "clapping both hands": "拍手", squatting: "下蹲", marching: "踏步", "punching with one arm": "单手出拳", "kicking with one leg": "踢腿" };

export const store = {
  get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
  set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* private mode */ } },
};
export const query = new URLSearchParams(location.search); // ?lang= ?theme= and ?state=busy|failed|absent|empty|loading, for looking at states
const wanted = query.get("lang") || store.get("lang") || (navigator.language.startsWith("zh") ? "zh" : "en");
export let lang = WORDS[wanted] ? wanted : "en";
export function setLang(value) { lang = value; store.set("lang", value); }

/** The text of a key, with {0}, {1} … replaced. */
export function t(key, ...values) {
  const text = WORDS[lang][key] ?? WORDS.en[key] ?? key;
  return typeof text === "string" ? text.replace(/\{(\d)\}/g, (_, n) => values[n]) : text;
}
/** A model's own word, with its Chinese beside it where the page is Chinese. */
export const gloss = (word) => (lang === "zh" && GLOSS[word] ? `${GLOSS[word]} ${word}` : word);

const INTENTS = { // the data set's class → what people read
  Attractive: ["Look attractive", "展示魅力"], BeatCompete: ["Compete and win", "竞争取胜"], Communicate: ["Communicate", "交流"], CreativeUnique: ["Be creative", "有创意"], CuriousAdventurousExcitingLife: ["Live an adventure", "冒险生活"], EasyLife: ["Easy life", "轻松生活"], EnjoyLife: ["Enjoy life", "享受生活"], "FineDesignLearnArt-Arch": ["Art: architecture", "艺术：建筑"], "FineDesignLearnArt-Art": ["Art: works", "艺术：作品"], "FineDesignLearnArt-Culture": ["Art: culture", "艺术：文化"], GoodParentEmoCloseChild: ["Close to a child", "亲子之情"], Happy: ["Be happy", "快乐"], HardWorking: ["Work hard", "努力工作"], Harmony: ["Harmony", "和谐"], Health: ["Health", "健康"], InLove: ["In love", "恋爱"], InLoveAnimal: ["Love an animal", "喜爱动物"], InspirOthrs: ["Inspire others", "激励他人"], ManagableMakePlan: ["Make a plan", "制定计划"], NatBeauty: ["Beauty of nature", "自然之美"], PassionAbSmthing: ["Passion for something", "热爱某事"], Playful: ["Be playful", "俏皮"], ShareFeelings: ["Share feelings", "分享感受"], SocialLifeFriendship: ["Friendship", "友谊"], SuccInOccupHavGdJob: ["Success at work", "事业成功"], TchOthrs: ["Teach others", "教导他人"], ThngsInOrdr: ["Things in order", "井井有条"], WorkILike: ["Work I like", "喜欢的工作"],
};
/** The name of an intent's class, as people read it. */
export const humanIntent = (name) => INTENTS[name]?.[lang === "zh" ? 1 : 0] ?? name;
